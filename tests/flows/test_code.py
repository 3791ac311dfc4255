"""A clone runs its own library, also where the environment's is an editable install of another checkout."""

import subprocess
import sys

import pytest

from flows.code import INSTALLED, KERNEL, make_ready
from flows.errors import StageLost
from flows.repro import environment

IMPORT = """
import avatar_core.clock as c, stages.params as p, avatar_core.render.native as n
n.native()
print(c.__file__, p.__file__, n._library_path())
"""


@pytest.fixture
def clone(tmp_path):
    root = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--shared", str(INSTALLED), str(root)], check=True)
    return root


def python(root, code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment(root), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_clone_imports_its_own_library_and_kernel(clone):
    make_ready(clone)
    names = python(clone, IMPORT)
    assert names == [
        str(clone / name)
        for name in ("avatar_core/clock.py", "stages/params.py", "avatar_core/render/_native.so")
    ]
    with open(clone / "avatar_core/clock.py", "a") as file:
        file.write("\nOF_THE_CLONE = 3\n")
    assert python(clone, "from avatar_core.clock import OF_THE_CLONE; print(OF_THE_CLONE)") == ["3"]
    before = (clone / KERNEL).stat().st_mtime_ns
    make_ready(clone)
    assert (clone / KERNEL).stat().st_mtime_ns == before


def test_another_kernel_is_built_and_not_borrowed(clone):
    make_ready(clone)
    for source in (clone / "avatar_core/render/csrc").glob("*.cpp"):
        source.write_text('#include "of the clone.h"\n' + source.read_text())
    with pytest.raises(StageLost, match="of the clone"):
        make_ready(clone)
    assert not (clone / KERNEL).exists()


def test_the_installed_checkout_is_left_as_it_is():
    make_ready(INSTALLED)
    assert environment(INSTALLED).get("PYTHONPATH", "").find("own_code") < 0
