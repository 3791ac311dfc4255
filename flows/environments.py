"""The packages that a clone's stages run with: those of its own requirements.lock, in an environment a lock's hash.

The worker's environment serves the commits that it was made for. For another lock one is made below the worker's cache and kept, by
the commands of `make setup`; DVC and Prefect stay the worker's, stages get the new Python.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from flows.code import INSTALLED, digest
from flows.errors import FULL, StageFailed, StageFull, StageUnfit
from flows.processes import TIMED_OUT, stream

PINS = Path("requirements.lock")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audioavatar"
ENVIRONMENTS = CACHE / "environments"
HOUR = 3600.0  # seconds
# pip also says that it finds no such package where it could not ask; before that it says that it asks again
_UNHEARD = re.compile(
    r"Retrying \(|Connection(Error| broken| aborted| reset)|Temporary failure|timed out|Network is unreachable|HTTP error 5"
)


def python_of(root: Path, say: Callable[[str], None], folder: Path = ENVIRONMENTS) -> Path:
    """The Python with the packages of the lock of the workspace `root`: this one, else that of an environment under `folder`, which
    is made by the first who asks while others wait; one that was not finished is never used.

    Raises StageUnfit where the packages cannot be fetched now, StageFull, StageFailed where pip cannot satisfy the lock.
    """
    pins, own = root / PINS, INSTALLED / PINS
    if not (pins.is_file() and own.is_file()) or digest(pins) == digest(own):
        return Path(sys.executable)
    name = f"{digest(pins)[:16]}-{sys.implementation.cache_tag}-{platform.machine()}"
    made, stamp = folder / name, folder / name / "finished"
    python = made / "bin" / "python"
    if stamp.is_file():
        return python
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.is_file():
            shutil.rmtree(made, ignore_errors=True)
            say(f"{PINS}: another one than this machine's, its environment is made in {made}")
            try:
                _make(made, python, pins, say)
                stamp.touch()
            except StageFailed:
                shutil.rmtree(made, ignore_errors=True)
                raise
    return python


def _make(made: Path, python: Path, pins: Path, say: Callable[[str], None]) -> None:
    # without the code of a clone or of this checkout on Python's path: what is there may look installed
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--use-pep517"]
    for command in ([sys.executable, "-m", "venv", str(made)], [*install, "-r", str(pins.resolve())]):
        code, lines = stream(command, made.parent, say, variables, HOUR)
        if code == 0:
            continue
        said = (
            [line for line in lines if line.startswith(("ERROR: ", "error: "))] or lines or [f"code {code}"]
        )
        kind = StageFailed
        if any(FULL in line for line in lines):
            kind = StageFull
        elif (
            command[0] == sys.executable or code < 0 or code == TIMED_OUT or any(map(_UNHEARD.search, lines))
        ):
            kind = StageUnfit
        raise kind(f"{pins}: {said[-1]}")
