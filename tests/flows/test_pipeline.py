"""The flow on a small DVC project: order, parallel shards, retries, refusals. Real DVC, real Prefect, no server of ours."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avatar_core.errors import UserError
from flows.errors import StageFailed, StageFull, StageLost, StagePreempted, StageRefused
from flows.repro import (
    changed_stages,
    parse_dot,
    part_of,
    run_dvc_stage,
    stage_graph,
    stale_stages,
)
from tests.flows.parts import processes

ROOT = Path(__file__).resolve().parents[2]
TOY = """
stages:
  make:
    cmd: "{make}"
    deps: [input.txt]
    outs: [a.txt]
  copy:
    matrix: {{ shard: [0, 1, 2] }}
    cmd: "cp a.txt b${{item.shard}}.txt"
    deps: [a.txt]
    outs: ["b${{item.shard}}.txt"]
  join:
    cmd: "cat b0.txt b1.txt b2.txt > c.txt"
    deps: [b0.txt, b1.txt, b2.txt]
    outs: [c.txt]
"""


@pytest.fixture
def project(tmp_path, prefect_home):
    prefect_home(tmp_path / ".prefect")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "input.txt").write_text("hello\n")
    (tmp_path / "dvc.yaml").write_text(TOY.format(make="cat input.txt > a.txt"))
    return tmp_path


def flow(project, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(project / ".prefect")}
    command = [sys.executable, "-m", "flows.pipeline", "--root", str(project), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    return result.returncode, result.stdout, result.stderr


def test_graph_is_topological(project):
    graph = stage_graph(project)
    assert graph == {
        "make": set(),
        "copy@0": {"make"},
        "copy@1": {"make"},
        "copy@2": {"make"},
        "join": {"copy@0", "copy@1", "copy@2"},
    }
    assert next(iter(graph)) == "make" and list(graph)[-1] == "join"
    assert parse_dot('strict digraph {\n"x";\n"a" -> "b";\n}') == {"x": set(), "a": set(), "b": {"a"}}


def test_the_projects_own_graph():
    graph = stage_graph(ROOT)
    assert graph["fit@0"] >= {"identities", "teacher@0"} and "teacher@1" not in graph["fit@0"]
    assert graph["distill"] >= {"score", "embed", "generator"} and list(graph)[-1] == "report"


def test_flow_runs_shards_in_parallel_and_tries_a_killed_stage_again(project):
    make = "echo x >> tries.txt; test $(wc -l < tries.txt) -gt 1 || kill -9 $$; cat input.txt > a.txt"
    (project / "dvc.yaml").write_text(TOY.format(make=make))
    code, out, err = flow(project, "--parallel", "3")
    assert code == 0, out + err
    assert (project / "tries.txt").read_text() == "x\nx\n" and (
        project / "c.txt"
    ).read_text() == "hello\n" * 3
    assert out.count("ran, ") == 5
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], cwd=project, capture_output=True, text=True
    )
    assert "up to date" in status.stdout
    code, out, err = flow(project)
    assert code == 0 and "ran, " not in out and out.count("up to date") == 5


def test_only_what_changed_and_what_follows_is_looked_at(project):
    graph = stage_graph(project)
    assert stale_stages(graph, changed_stages(project)) == set(graph)
    for stage in graph:
        run_dvc_stage(stage, project, lambda line: None)
    assert changed_stages(project) == set()
    (project / "b1.txt").unlink()
    assert stale_stages(graph, changed_stages(project)) == {"copy@1", "join"}
    assert list(part_of(graph, ["copy@1"])) == ["make", "copy@1"]
    assert set(part_of(graph, ["copy"])) == set(graph) - {"join"} and part_of(graph, []) == graph
    with pytest.raises(UserError, match="stage: expected one of make, copy, join; found 'paste'"):
        part_of(graph, ["paste"])


def test_refused_input_is_not_tried_again(project):
    make = "echo x >> tries.txt; echo 'error: make: input.txt: expected a number' >&2; exit 2"
    (project / "dvc.yaml").write_text(TOY.format(make=make))
    code, _, err = flow(project)
    assert code == 2 and err.strip() == "error: make: make: input.txt: expected a number"
    assert (project / "tries.txt").read_text() == "x\n" and not (project / "c.txt").exists()


def test_run_dvc_stage_tells_refusal_from_failure(project):
    lines = []
    assert run_dvc_stage("make", project, lines.append) is True
    assert run_dvc_stage("make", project, lines.append) is False
    ends = {
        "exit 2": StageRefused,
        "exit 1": StageFailed,
        "exit 75": StagePreempted,
        "kill -9 $$": StageLost,
        "echo cp: No space left on device; exit 1": StageFull,
    }
    for end, kind in ends.items():
        (project / "dvc.yaml").write_text(TOY.format(make=end))
        with pytest.raises(kind) as caught:
            run_dvc_stage("make", project, lines.append)
        assert type(caught.value) is kind


def test_no_project(tmp_path):
    code, _, err = flow(tmp_path)
    assert code == 2 and "expected a folder with dvc.yaml" in err and len(err.strip().splitlines()) == 1


def test_an_own_error_is_not_tried_again_and_a_preempted_stage_goes_on(project):
    (project / "dvc.yaml").write_text(TOY.format(make="echo x >> tries.txt; exit 1"))
    code, _, err = flow(project)
    assert code == 1 and err.startswith("error: make: ") and (project / "tries.txt").read_text() == "x\n"
    # told to end four times: more often than a failure is tried again
    make = "echo x >> tries.txt; test $(wc -l < tries.txt) -gt 5 || exit 75; cat input.txt > a.txt"
    (project / "dvc.yaml").write_text(TOY.format(make=make))
    code, out, err = flow(project, "make")
    assert code == 0, out + err
    assert (project / "tries.txt").read_text() == "x\n" * 6 and not (project / "b0.txt").exists()


def test_a_stage_that_hangs_is_ended(project):
    (project / "dvc.yaml").write_text(TOY.format(make="echo on; sleep 77"))
    with pytest.raises(StageFailed, match="make: expected an end within 3 s, found none") as caught:
        run_dvc_stage("make", project, lambda line: None, seconds=3)
    assert type(caught.value) is StageFailed
    assert not processes(project, "sleep")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_flow_leaves_no_process_behind(project, number):
    make = "trap '' TERM; sleep 1; trap 'echo told >> told.txt; exit 75' TERM; echo on > on.txt; sleep 120 & wait"
    (project / "dvc.yaml").write_text(TOY.format(make=make))
    (project / "home").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(project / ".prefect")}
    command = [sys.executable, "-m", "flows.pipeline", "--root", str(project)]
    started = subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for((project / "on.txt").exists, 150)
    assert processes(project, "python", "sleep")  # the server of the run is one of them
    started.send_signal(number)
    out, _ = started.communicate(timeout=60)
    assert started.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), out
    wait_for(lambda: not processes(project, "python", "sleep", "sh", "bash"), 45)
    assert (project / "told.txt").read_text() == "told\n"  # it could save its state first


def wait_for(ready, seconds):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.2)
