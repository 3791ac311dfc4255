"""Two workers with clones of their own and a shared DVC remote; the coordinator gets everything without running anything."""

import subprocess
import sys

import pytest

from flows.dvc import StageRefused
from flows.remote import collect, run_in_clone

STAGES = """
stages:
  make:
    cmd: "echo make >> {log}; cat input.txt > a.txt"
    deps: [input.txt]
    outs: [a.txt]
  copy:
    matrix: {{ shard: [0, 1] }}
    cmd: "echo copy${{item.shard}} >> {log}; cp a.txt b${{item.shard}}.txt"
    deps: [a.txt]
    outs: ["b${{item.shard}}.txt"]
  join:
    cmd: "echo join >> {log}; cat b0.txt b1.txt > c.txt"
    deps: [b0.txt, b1.txt]
    outs: [c.txt]
"""


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def origin(tmp_path):
    root = tmp_path / "origin"
    root.mkdir()
    git(root, "init", "-q", ".")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "-q"], cwd=root, check=True)
    subprocess.run(
        [*dvc, "remote", "add", "-q", "-d", "shared", str(tmp_path / "remote")], cwd=root, check=True
    )
    (root / "input.txt").write_text("hello\n")
    (root / "dvc.yaml").write_text(STAGES.format(log=tmp_path / "log.txt"))
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root


def test_each_stage_runs_once_wherever_it_runs(origin, tmp_path):
    revision, log = git(origin, "rev-parse", "HEAD"), tmp_path / "log.txt"
    run_in_clone(str(origin), revision, "make", tmp_path / "one")
    run_in_clone(str(origin), revision, "copy@0", tmp_path / "one")
    run_in_clone(str(origin), revision, "copy@1", tmp_path / "two")
    run_in_clone(str(origin), revision, "join", tmp_path / "one")
    collect(origin)
    assert sorted(log.read_text().split()) == ["copy0", "copy1", "join", "make"]
    assert (origin / "c.txt").read_text() == "hello\n" * 2


def test_a_refused_stage_says_why(origin, tmp_path):
    (origin / "dvc.yaml").write_text(
        "stages:\n  make:\n    cmd: \"echo 'error: make: bad'; exit 2\"\n    deps: [input.txt]\n    outs: [a.txt]\n"
    )
    git(origin, "commit", "-q", "-a", "-m", "bad")
    with pytest.raises(StageRefused, match="error: make: bad"):
        run_in_clone(str(origin), git(origin, "rev-parse", "HEAD"), "make", tmp_path / "one")
