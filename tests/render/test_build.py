"""The native build: what it says without a compiler, and what the library offers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from avatar_core.render import native

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
def test_missing_compiler_gives_one_clear_line(tmp_path):
    cmake = tmp_path / "bin" / "cmake"
    cmake.parent.mkdir()
    cmake.symlink_to(str(shutil.which("cmake")))
    tools = {name: shutil.which(name) for name in ("make", "ninja") if shutil.which(name)}
    for name, path in tools.items():
        (cmake.parent / name).symlink_to(str(path))
    environment = {k: v for k, v in os.environ.items() if k not in ("CC", "CXX", "CMAKE_ROOT")}
    environment["PATH"] = str(cmake.parent)
    done = subprocess.run(
        [str(shutil.which("cmake")), "-S", str(ROOT), "-B", str(tmp_path / "build")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "C++17 compiler" in line]
    assert len(lines) == 1 and "apt install g++" in lines[0]


def test_library_offers_the_builds():
    library = native.native()
    assert library.isa("portable") == 1
    assert library.isa(None) == library.best_isa
    with pytest.raises(ValueError, match="isa: expected one of"):
        library.isa("neon")


def test_import_needs_no_kernel(monkeypatch):
    native.native.cache_clear()
    monkeypatch.setattr(native, "_library_path", lambda: None)
    with pytest.raises(
        ImportError, match=r"not built: pip install the package, or run python -m avatar_core\.render\.build"
    ):
        native.native()
    monkeypatch.undo()
    native.native.cache_clear()
