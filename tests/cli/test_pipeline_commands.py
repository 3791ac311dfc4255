"""Commands that stand for modules of the checkout."""

import subprocess
import sys


def test_whoever_ends_the_command_ends_the_module(tmp_path):
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/__init__.py").touch()
    (tmp_path / "stages/__main__.py").write_text(
        "import os, sys\nprint(os.getpid(), *sys.argv[1:])\nsys.exit(3)\n"
    )
    below = tmp_path / "below"
    below.mkdir()
    command = [sys.executable, "-m", "avatar_core.cli", "inspect", "fit", "--all"]
    process = subprocess.Popen(command, cwd=below, stdout=subprocess.PIPE, text=True)
    said, _ = process.communicate(timeout=120)
    assert said.split() == [str(process.pid), "inspect", "fit", "--all"] and process.returncode == 3
