"""Two workers with clones of their own and a shared DVC remote; the coordinator gets everything without running anything."""

import subprocess
import sys
import time

import pytest

from flows.clone import free_clone, run_in_clone
from flows.errors import StageFailed, StageRefused
from flows.remote import collect

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
    run_in_clone(str(origin), revision, "make", tmp_path / "one", print)
    run_in_clone(str(origin), revision, "copy@0", tmp_path / "one", print)
    run_in_clone(str(origin), revision, "copy@1", tmp_path / "two", print)
    run_in_clone(str(origin), revision, "join", tmp_path / "one", print)
    collect(origin)
    assert sorted(log.read_text().split()) == ["copy0", "copy1", "join", "make"]
    assert (origin / "c.txt").read_text() == "hello\n" * 2


def test_a_refused_stage_says_why(origin, tmp_path):
    (origin / "dvc.yaml").write_text(
        "stages:\n  make:\n    cmd: \"echo 'error: make: bad'; exit 2\"\n    deps: [input.txt]\n    outs: [a.txt]\n"
    )
    git(origin, "commit", "-q", "-a", "-m", "bad")
    with pytest.raises(StageRefused, match="make: bad"):
        run_in_clone(str(origin), git(origin, "rev-parse", "HEAD"), "make", tmp_path / "one", print)


def test_what_a_killed_worker_left_does_not_stop_the_next(origin, tmp_path):
    revision, one = git(origin, "rev-parse", "HEAD"), tmp_path / "one"
    (tmp_path / "one.part" / ".git").mkdir(parents=True)  # killed while it cloned
    run_in_clone(str(origin), revision, "make", one, print)
    (one / ".git" / "index.lock").touch()
    run_in_clone(str(origin), revision, "copy@0", one, print)
    assert (tmp_path / "log.txt").read_text().split() == ["make", "copy0"]


def test_lines_come_as_they_are_said(origin, tmp_path):
    (origin / "dvc.yaml").write_text('stages:\n  make:\n    cmd: "echo one; sleep 2; echo two"\n')
    git(origin, "commit", "-q", "-a", "-m", "slow")
    heard = []
    run_in_clone(
        str(origin),
        git(origin, "rev-parse", "HEAD"),
        "make",
        tmp_path / "one",
        lambda line: heard.append((line, time.monotonic())),
    )
    at = dict(heard)
    assert at["two"] - at["one"] > 1.5


def test_a_missing_remote_is_the_reason_given(origin, tmp_path):
    git(origin, "rm", "-q", "--cached", ".dvc/config")
    (origin / ".dvc/config").write_text("")
    git(origin, "add", "-f", ".dvc/config")
    git(origin, "commit", "-q", "-m", "no remote")
    with pytest.raises(StageFailed, match="no remote"):
        run_in_clone(str(origin), git(origin, "rev-parse", "HEAD"), "make", tmp_path / "one", print)


def test_two_workers_of_a_machine_have_clones_of_their_own(tmp_path):
    with (
        free_clone("a", tmp_path) as first,
        free_clone("a", tmp_path) as second,
        free_clone("b", tmp_path) as third,
    ):
        assert len({first, second, third}) == 3
    with free_clone("a", tmp_path) as again:
        assert again == first
