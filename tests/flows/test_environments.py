"""A workspace with another requirements.lock runs with the packages of that one; pip and its packages are real, made here."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from flows.environments import python_of
from flows.errors import StageFailed, StageUnfit
from flows.repro import run_dvc_stage
from tests.flows.parts import ROOT, dvc_project, packages

long = pytest.mark.cluster  # a minute of venv and pip on a busy machine: `make test-cluster`
MARK = "import marker; print(marker.VALUE)"


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """pip finds these packages and no others."""
    for name, value in packages(tmp_path / "wheels").items():
        monkeypatch.setenv(name, value)
    return tmp_path / "wheels"


def workspace(folder, pins):
    folder.mkdir()
    (folder / "requirements.lock").write_text(pins)
    return folder


def test_this_environment_serves_its_own_lock_and_other_projects(tmp_path):
    same = workspace(tmp_path / "same", (ROOT / "requirements.lock").read_text())
    (tmp_path / "none").mkdir()
    for root in (ROOT, same, tmp_path / "none"):
        assert python_of(root, print, tmp_path / "made") == Path(sys.executable)
    assert not (tmp_path / "made").exists()


@long
def test_one_environment_a_lock_is_made_once_and_whole(wheels, tmp_path):
    root, folder = workspace(tmp_path / "a", "marker==2.0\n"), tmp_path / "made"
    said = []
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(lambda _: python_of(root, said.append, folder), range(2))
    assert first == second and len([line for line in said if "is made in" in line]) == 1

    def value(python):
        return subprocess.run([python, "-c", MARK], capture_output=True, text=True, check=True).stdout.strip()

    assert value(first) == "2"
    inode = first.parent.stat().st_ino
    assert python_of(workspace(tmp_path / "b", "marker==2.0\n"), print, folder) == first
    assert first.parent.stat().st_ino == inode
    # one that a killed worker has left is made anew, whatever lies in it
    (first.parents[1] / "finished").unlink()
    next(first.parents[1].rglob("marker.py")).write_text("half")
    assert value(python_of(root, print, folder)) == "2"


@long
def test_packages_that_cannot_be_had(wheels, tmp_path, monkeypatch):
    folder = tmp_path / "made"
    with pytest.raises(StageFailed, match="No matching distribution found for marker==3.0") as caught:
        python_of(workspace(tmp_path / "a", "marker==3.0\n"), print, folder)
    assert type(caught.value) is StageFailed and not [p for p in folder.iterdir() if p.is_dir()]
    # no network: another machine may have one
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(StageUnfit, match="marker"):
        python_of(workspace(tmp_path / "b", "marker==3.0\n"), print, folder)
    assert not [p for p in folder.iterdir() if p.is_dir()]


@long
def test_a_stage_runs_with_the_packages_of_its_lock(wheels, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.repro.python_of", partial(python_of, folder=tmp_path / "made"))
    stages = (
        f'stages:\n  make:\n    cmd: python -c "{MARK}" > a.txt\n    deps: [input.txt]\n    outs: [a.txt]\n'
    )
    root = dvc_project(tmp_path, stages, **{"requirements.lock": "marker==1.0\n"})
    assert run_dvc_stage("make", root, print)
    assert (root / "a.txt").read_text() == "1\n"
