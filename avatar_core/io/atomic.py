"""Files and directories that are either the old ones or the new ones, never half of each.

Written beside the target under a name starting with `.tmp-<pid>-`, synced, then renamed over it. What a killed process left is
recognisable by that name: `clean_leftovers` removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avatar_core.errors import UserError

PREFIX = ".tmp-"


def _temporary(path: Path) -> Path:
    return path.with_name(f"{PREFIX}{os.getpid()}-{path.name}")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what the block writes there becomes `path` if the block ends without error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty temporary directory beside `path`; it replaces `path` (file tree and all) if the block ends without error.

    A directory cannot be replaced in one call: for an instant, `path` is absent. A reader then finds nothing, never a mixture.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, previous = _temporary(path), _temporary(path.with_name(path.name + ".old"))
    _remove(temporary)
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
        _remove(previous)
        if path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        _remove(temporary)
        _remove(previous)


def check_replaceable(path: str | os.PathLike, entries: str, what: str) -> None:
    """Refuse to replace a folder of the user's: `path` must be absent, empty, or hold only plain files whose whole names match
    the regular expression `entries`.

    Raises UserError that names the folder, `what` was expected in it, and the first thing that is something else.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: expected the name of a folder, found a file")
    for entry in sorted(path.iterdir()) if path.is_dir() else ():
        if not re.fullmatch(entries, entry.name) or not entry.is_file() or entry.is_symlink():
            raise UserError(
                f"{path}: expected a new or empty folder or {what}, found {entry.name} in it; nothing was changed"
            )


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Atomically write `data`."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Atomically write UTF-8 `text`."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Atomically write `value` as indented JSON with sorted keys; NaN and infinities are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def clean_leftovers(folder: str | os.PathLike) -> list[Path]:
    """Remove what killed writers left anywhere under `folder`; returns the removed paths. Call it before writing starts."""
    removed = []
    for parent, folders, names in os.walk(folder):
        for name in [n for n in folders + names if n.startswith(PREFIX)]:
            removed.append(Path(parent, name))
            _remove(removed[-1])
        folders[:] = [n for n in folders if not n.startswith(PREFIX)]
    return removed


def sha256_file(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
