"""Builds the native kernel in place: `python -m avatar_core.render.build`. (Installing the package builds it too.)"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build_in_place(*options: str) -> Path:
    """Configures and compiles with CMake, puts `_native.so` beside this file and returns its path.

    `options` go to CMake as they are. Raises RuntimeError with one line when there is no CMake or no compiler.
    """
    if shutil.which("cmake") is None:
        raise RuntimeError("building the renderer needs CMake (pip install cmake), none was found")
    target = Path(__file__).with_name("_native.so")
    with tempfile.TemporaryDirectory() as scratch:
        for command in (
            ["cmake", "-S", str(ROOT), "-B", scratch, *options],
            ["cmake", "--build", scratch, "-j", "2"],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
                reason = next(
                    (line for line in lines if line.startswith("avatar_core needs") or "error" in line),
                    lines[-1],
                )
                raise RuntimeError(f"building the renderer failed: {reason}")
        replacement = target.with_suffix(".tmp")
        shutil.copy(Path(scratch) / "_native.so", replacement)
        replacement.replace(target)  # a running process keeps the library it has mapped
    return target


if __name__ == "__main__":
    try:
        print(build_in_place(*sys.argv[1:]))
    except RuntimeError as error:
        sys.exit(str(error))
