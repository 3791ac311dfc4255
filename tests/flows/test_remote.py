"""Two workers with clones of their own and a shared DVC remote; the coordinator gets everything without running anything."""

import errno
import os
import time

import pytest

from flows.clone import bring, free_clone, run_in_clone
from flows.errors import StageFailed, StageFull, StageLost, StagePreempted, StageRefused
from flows.exchange import opened, put
from flows.remote import collect
from flows.repro import run_dvc_stage
from tests.flows.parts import JOIN, ONCE, PYTHON, commit, dvc, git, sharded_project, words

ONCE_EACH = [*ONCE, "join"]


@pytest.fixture
def origin(tmp_path):
    return sharded_project(tmp_path, join=f"echo join >> {tmp_path}/log.txt; {JOIN}")[0]


def test_each_stage_runs_once_wherever_it_runs(origin, tmp_path):
    revision = git(origin, "rev-parse", "HEAD")
    run_in_clone(str(origin), revision, "make", tmp_path / "one", print)
    run_in_clone(str(origin), revision, "copy@0", tmp_path / "one", print)
    run_in_clone(str(origin), revision, "copy@1", tmp_path / "two", print)
    run_in_clone(str(origin), revision, "join", tmp_path / "one", print)
    collect(origin)
    assert words(tmp_path) == sorted(ONCE_EACH)
    assert (origin / "c.txt").read_text() == "hello\n" * 2
    # by that lock DVC itself finds all of it in another clone, and runs nothing
    commit(origin)
    git(tmp_path, "clone", "-q", str(origin), "other")
    dvc(tmp_path / "other", "repro", "--pull")
    assert words(tmp_path) == sorted(ONCE_EACH)
    assert (tmp_path / "other/c.txt").read_text() == "hello\n" * 2
    assert (tmp_path / "other/dvc.lock").read_bytes() == (origin / "dvc.lock").read_bytes()


def test_a_refused_stage_says_why(origin, tmp_path):
    (origin / "dvc.yaml").write_text(
        "stages:\n  make:\n    cmd: \"echo 'error: make: bad'; exit 2\"\n    deps: [input.txt]\n    outs: [a.txt]\n"
    )
    with pytest.raises(StageRefused, match="make: bad"):
        run_in_clone(str(origin), commit(origin), "make", tmp_path / "one", print)


def test_what_a_killed_worker_left_does_not_stop_the_next(origin, tmp_path):
    revision, one = git(origin, "rev-parse", "HEAD"), tmp_path / "one"
    (tmp_path / "one.part" / ".git").mkdir(parents=True)  # killed while it cloned
    run_in_clone(str(origin), revision, "make", one, print)
    (one / ".git" / "index.lock").touch()
    run_in_clone(str(origin), revision, "copy@0", one, print)
    assert words(tmp_path) == ["copy0", "done0", "make"]


def test_lines_come_as_they_are_said(origin, tmp_path):
    (origin / "dvc.yaml").write_text('stages:\n  make:\n    cmd: "echo one; sleep 2; echo two"\n')
    heard = []
    run_in_clone(
        str(origin),
        commit(origin),
        "make",
        tmp_path / "one",
        lambda line: heard.append((line, time.monotonic())),
    )
    at = dict(heard)
    assert at["two"] - at["one"] > 1.5


def test_a_missing_remote_is_the_reason_given(origin, tmp_path):
    (origin / ".dvc/config").write_text("")
    with pytest.raises(StageFailed, match="no remote"):
        run_in_clone(str(origin), commit(origin), "make", tmp_path / "one", print)


def test_two_workers_of_a_machine_have_clones_of_their_own(tmp_path):
    with (
        free_clone("a", tmp_path) as first,
        free_clone("a", tmp_path) as second,
        free_clone("b", tmp_path) as third,
    ):
        assert len({first, second, third}) == 3
    with free_clone("a", tmp_path) as again:
        assert again == first


def test_upstream_that_has_vanished_is_said_and_not_made_anew(origin, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.exchange.PATIENCE", (0.1,))
    revision = git(origin, "rev-parse", "HEAD")
    run_in_clone(str(origin), revision, "make", tmp_path / "one", print)
    for file in (p for p in (tmp_path / "remote/files").rglob("*") if p.is_file()):
        file.unlink()
    with pytest.raises(StageLost, match="make: expected its outputs in the remote"):
        run_in_clone(str(origin), revision, "copy@0", tmp_path / "two", print)
    with pytest.raises(StageLost, match="make: expected its outputs in the remote"):
        collect(origin)
    # whoever has them gives them again
    run_in_clone(str(origin), revision, "make", tmp_path / "one", print)
    run_in_clone(str(origin), revision, "copy@0", tmp_path / "two", print)
    assert words(tmp_path) == ["copy0", "done0", "make"]


def test_a_worker_gets_what_its_stage_needs_and_no_more(origin, tmp_path):
    revision = git(origin, "rev-parse", "HEAD")
    for stage in ("make", "copy@0", "copy@1"):
        run_in_clone(str(origin), revision, stage, tmp_path / "one", print)
    run_in_clone(str(origin), revision, "copy@1", tmp_path / "two", print)
    assert not (tmp_path / "two/b0.txt").exists()
    entries = [p for p in (tmp_path / "two/.dvc/cache/runs").rglob("*") if p.is_file()]
    assert len(entries) == 2  # of make and copy@1
    assert (tmp_path / "two/b1.txt").stat().st_nlink > 1  # one copy of the data, not two


def test_unfinished_work_goes_on_in_another_clone(origin, tmp_path):
    # a stage that does three pieces and is told to end after the second, in its first life
    work = "mkdir -p data/work/make; for k in 1 2 3; do test -e data/work/make/$k && continue; "
    work += f"echo $k >> {tmp_path}/log.txt; touch data/work/make/$k; test $k = 2 && exit 75; done; ls data/work/make > a.txt"
    (origin / "dvc.yaml").write_text(
        f'stages:\n  make:\n    cmd: "{work}"\n    deps: [input.txt]\n    outs: [a.txt]\n'
    )
    revision = commit(origin)
    with pytest.raises(StagePreempted):
        run_in_clone(str(origin), revision, "make", tmp_path / "one", print)
    kept = tmp_path / "remote/work" / revision / "make.tar"
    assert kept.is_file()
    run_in_clone(str(origin), revision, "make", tmp_path / "two", print)
    assert (tmp_path / "log.txt").read_text().split() == ["1", "2", "3"]
    assert (tmp_path / "two/a.txt").read_text().split() == ["1", "2", "3"] and not kept.exists()


def test_of_two_that_differ_the_first_in_the_remote_counts(origin, tmp_path):
    # torch by the instructions of two kinds of CPU; both ran, the second because the first was taken for dead
    numbers = (
        "import torch; print(torch.linspace(0, 1, 1000).sub(0.3).mul(7).exp().view(torch.int32).tolist())"
    )
    (origin / "dvc.yaml").write_text(
        f"stages:\n  make:\n    cmd: {PYTHON} -c '{numbers}' > a.txt\n    deps: [input.txt]\n    outs: [a.txt]\n"
        "  next:\n    cmd: cp a.txt c.txt\n    deps: [a.txt]\n    outs: [c.txt]\n"
    )
    revision, one, two = commit(origin), tmp_path / "one", tmp_path / "two"
    bring(str(origin), revision, two, print)
    run_dvc_stage("make", two, print, extra={"ATEN_CPU_CAPABILITY": "default"})
    run_in_clone(str(origin), revision, "make", one, print)
    first = (one / "a.txt").read_text()
    assert (two / "a.txt").read_text() != first
    put("make", two)
    assert (two / "a.txt").read_text() == first
    (two / "a.txt").unlink()
    run_in_clone(str(origin), revision, "next", two, print)
    collect(origin)
    assert (origin / "c.txt").read_text() == (origin / "a.txt").read_text() == first


def test_an_own_mistake_is_no_outage(origin, tmp_path, monkeypatch):
    bring(str(origin), git(origin, "rev-parse", "HEAD"), tmp_path / "one", print)
    with pytest.raises(ValueError), opened(tmp_path / "one"):
        int("mistake")
    with pytest.raises(StageFull), opened(tmp_path / "one"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
