"""Files and directories that are either the old ones or the new ones, never half of each.

Written beside the target under a name starting with `.tmp-<pid>-<thread>-`, synced, then renamed over it. What a killed process
left is recognisable by that name: `clean_leftovers` removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from avatar_core.errors import UserError

PREFIX = ".tmp-"


def _temporary(path: Path) -> Path:
    writer = f"{os.getpid()}-{threading.get_native_id()}"  # threads of one process write the same file at once, too
    return path.with_name(f"{PREFIX}{writer}-{path.name[-50:]}")  # a name may have 255 bytes


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
    """Yield a temporary path beside `path`; what the block writes there becomes `path` if the block ends without error.

    Raises UserError when the disk refuses (full, read-only, no permission, a name too long).
    """
    path = Path(path)
    temporary = _temporary(path)
    with _one_line(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty temporary directory beside `path`; it replaces `path` (file tree and all) if the block ends without error.

    A directory cannot be replaced in one call: for an instant, `path` is absent. A reader then finds nothing, never a mixture.
    Raises UserError as `atomic_file`.
    """
    path = Path(path)
    temporary, previous = _temporary(path), _temporary(path.with_name(path.name + ".old"))
    with _one_line(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
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


@contextmanager
def _one_line(path: Path, temporary: Path) -> Iterator[None]:
    """What the disk refuses, in words for the user; trouble with another file that the block reads passes as it is."""
    try:
        yield
    except OSError as error:
        name = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else temporary
        if name != path and name not in path.parents and temporary not in (name, *name.parents):
            raise
        raise UserError(f"{path}: expected a place to write to, found: {reason(error)}") from error


def reason(error: OSError) -> str:
    """What the system says, in a few words: "No space left on device"."""
    return error.strerror or str(error) or type(error).__name__


def check_writable(path: str | os.PathLike, inputs: Sequence[str | os.PathLike]) -> None:
    """Try, before any work, whether `path` (a file or folder to come) can be written: make what it needs, and take it away again.

    inputs: files that are read. Raises UserError: no permission, a read-only or full disk, a file where a folder is needed, a name
    that the system refuses, or `path` is one of the `inputs` or the folder of one.
    """
    path = Path(path)
    made: list[Path] = []
    probe = _temporary(path)
    try:
        for given in map(Path, inputs):
            if path.exists() and any(p.exists() and p.samefile(path) for p in (given, given.parent)):
                raise UserError(f"{path}: expected another place than that of the input, found {given}")
        for folder in reversed(path.parents):
            if not folder.is_dir():
                folder.mkdir()
                made.append(folder)
        if not path.exists() and not path.is_symlink():
            path.touch(exist_ok=False)  # the name itself
            path.unlink()
        with open(probe, "wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        found = next((p for p in path.parents if p.exists() and not p.is_dir()), path)
        raise UserError(f"{path}: expected a folder to write to, found the file {found}") from None
    except OSError as error:
        raise UserError(f"{path}: expected a place to write to, found: {reason(error)}") from None
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
            for folder in reversed(made):
                folder.rmdir()


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
