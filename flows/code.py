"""Whose code a workspace runs: its own, also where `avatar_core` is installed from another checkout.

A clone at a run's commit is useless if Python takes the library from the checkout that the environment was made in: DVC would put
the clone's code into the lock and another one's results beside it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import avatar_core
from avatar_core.io.atomic import atomic_file
from flows.errors import StageUnfit

INSTALLED = Path(avatar_core.__file__ or "").resolve().parents[1]
SOURCES, KERNEL = Path("avatar_core/render/csrc"), Path("avatar_core/render/_native.so")
_MAKING = threading.Lock()  # flows start stages from threads, and the first two would build the same kernel
_FIND = "from avatar_core.render.native import _library_path as find; print(find() or '')"


def make_ready(root: Path) -> None:
    """Give the clone `root` the compiled kernel of its sources. Nothing to do for the installed checkout or another project.

    Raises StageUnfit where this machine cannot build it.
    """
    if root.resolve() == INSTALLED or not (root / "avatar_core").is_dir():
        return
    with _MAKING:
        _make(root, digest(root / SOURCES), root / "build" / "kernel.of")


def _make(root: Path, wanted: str, stamp: Path) -> None:
    if (root / KERNEL).is_file() and stamp.is_file() and stamp.read_text() == wanted:
        return
    if digest(INSTALLED / SOURCES) == wanted and (kernel := _run(INSTALLED, "-c", _FIND)):
        with atomic_file(root / KERNEL) as temporary:
            temporary.write_bytes(Path(kernel).read_bytes())
    else:
        (root / KERNEL).unlink(missing_ok=True)
        _run(root, "-m", "avatar_core.render.build")
    with atomic_file(stamp) as temporary:
        temporary.write_text(wanted)


def code_of(root: Path) -> dict[str, str]:
    """The variables with which a process in `root` imports that folder's library, which is made ready. Raises as `make_ready`."""
    make_ready(root)
    return _variables(root)


def _variables(root: Path) -> dict[str, str]:
    if root.resolve() == INSTALLED or not (root / "avatar_core").is_dir():
        return {}
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("own_code")), str(root.resolve())])}


def _run(root: Path, *arguments: str) -> str:
    environment = {**os.environ, **_variables(root)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stderr.strip() or "failed").splitlines()[-1]
        raise StageUnfit(f"{root / KERNEL}: expected that it can be had here, found: {said}")
    return done.stdout.strip()


def digest(path: Path) -> str:
    """Of a file, or of all files of a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    parts = (f"{file.relative_to(path)}\n".encode() + file.read_bytes() for file in files if file.is_file())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
