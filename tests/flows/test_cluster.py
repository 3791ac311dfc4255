"""A real Prefect server, real process workers, a small DVC project: normal ends, and workers and coordinators that die.

Minutes of waiting, little work: `make test-cluster`, not part of `make test`.
"""

import os
import signal

import pytest

from flows.slots import cpu_kind
from tests.flows.parts import commit, let_go, no_locks, processes, sharded_project, until, words
from tests.flows.servers import kill_tree

pytestmark = pytest.mark.cluster


def test_a_run_spreads_over_workers_and_a_dead_one_costs_its_stage(cluster, tmp_path):
    origin, revision = sharded_project(tmp_path, hold=True)
    lost, _ = cluster.worker("lost"), cluster.worker("other")
    first = cluster.coordinator("first", origin, revision)
    # both shards are under way, on different workers
    until(lambda: {"copy0", "copy1"} <= set(words(tmp_path)), 180, "both shards")
    assert (tmp_path / "lost/.cache/audioavatar/clones").is_dir()
    # The coordinator dies and is started again: it joins what is running.
    kill_tree(first.pid)
    again = cluster.coordinator("again", origin, revision)
    until(lambda: "[make]" in cluster.log("again"), 180, "its first stage")
    kill_tree(lost.pid)
    let_go(tmp_path)
    cluster.finish("again", again, 500)
    found = words(tmp_path)
    assert found.count("make") == 1 and found.count("done0") == 1 and found.count("done1") == 1
    assert found.count("copy0") + found.count("copy1") == 3  # the dead worker's once more, nothing else
    assert (origin / "c.txt").read_text() == "hello\n" * 2
    # where each ran, and on which kind of CPU, can be told afterwards
    ran = [run for run in cluster.runs() if run["state"]["name"] == "Completed"]
    assert all(f"cpu:{cpu_kind()}" in run["tags"] for run in ran)
    states = cluster.states()
    assert states.count("Crashed") == 1 and states.count("Completed") == len(states) - 1
    assert any(
        "Running stage 'join'" in line for line in cluster.lines()
    )  # a stage's own lines reach Prefect
    no_locks(origin, tmp_path / "other")


def test_a_refused_input_is_tried_once_and_ends_with_2(cluster, tmp_path):
    origin, revision = sharded_project(
        tmp_path, join="echo 'error: join: bad input'; echo join >> ../log.txt; exit 2"
    )
    cluster.worker("one")
    coordinator = cluster.coordinator("coordinator", origin, revision)
    cluster.finish("coordinator", coordinator, 300, code=2)
    last = cluster.log("coordinator").strip().splitlines()[-1]
    assert last.startswith("error: ") and last.endswith("join: bad input"), last
    assert cluster.states().count("Refused") == 1
    assert len(cluster.runs()) == 4


def test_an_interrupt_ends_the_coordinator_and_its_stages(cluster, tmp_path):
    origin, revision = sharded_project(tmp_path, hold=True)
    cluster.worker("one")
    coordinator = cluster.coordinator("coordinator", origin, revision)
    until(lambda: "copy0" in words(tmp_path) or "copy1" in words(tmp_path), 180, "a shard")
    assert processes(tmp_path / "one", "python", "sh", "bash", "sleep")
    os.kill(coordinator.pid, signal.SIGINT)
    cluster.finish("coordinator", coordinator, 90, code=130)
    until(
        lambda: all(
            run["state"]["name"] == "Cancelled" for run in cluster.runs() if run["name"][:4] == "copy"
        ),
        90,
        "end",
    )
    until(lambda: not processes(tmp_path / "one", "python", "sh", "bash", "sleep"), 90, "the stage's own end")
    let_go(tmp_path)
    assert not {"done0", "done1"} & set(words(tmp_path))


def test_a_checkout_elsewhere_is_refused(cluster, tmp_path):
    origin, revision = sharded_project(tmp_path)
    (origin / "input.txt").write_text("changed\n")
    commit(origin)
    cluster.finish("coordinator", cluster.coordinator("coordinator", origin, revision), 90, code=2)
    assert "--revision: expected this checkout's commit" in cluster.log("coordinator")
