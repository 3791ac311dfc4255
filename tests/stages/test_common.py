"""The stage harness: exit codes, metrics, seeds, workers that die, work that survives a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from avatar_core.errors import UserError, warn
from stages.common import HEADLINE, Stage, csv_text, tidy_metrics
from stages.params import Params
from stages.workers import process_map

ROOT = Path(__file__).resolve().parents[2]

TOY = '''
import sys, time
from pathlib import Path
from avatar_core.errors import UserError
from avatar_core.io.atomic import write_text
from stages.common import run_stage

def slow_square(job):
    folder, k = job
    path = Path(folder) / str(k)
    if not path.exists():
        time.sleep(0.3)
        write_text(path, str(k * k))
        with open("calls.txt", "a") as log:
            print(k, file=log)
    return int(path.read_text())

def main(stage):
    """A toy stage."""
    if sys.argv[0].endswith("refuse.py"):
        raise UserError("portrait.png: expected\\n a person, found none")
    folder = stage.scratch(Path("input.txt"))
    total = sum(stage.map(slow_square, [(str(folder), k) for k in range(6)]))
    out = stage.fresh(stage.out)
    write_text(out / "sum.txt", str(total))
    stage.write_metrics({"total": total, "missing": None, "a": 1 / 3}, headline=("total", "missing"))

if __name__ == "__main__":
    run_stage("fit", main, sharded=True)
'''

TRAIN = """
import time, torch
from avatar_core.io.atomic import write_text
from avatar_core.training.loop import Loop, run_loop
from stages.common import run_stage

def train(folder, progress, compute):
    model = torch.nn.Linear(1, 1)

    def losses():
        time.sleep(0.05)
        with open("calls.txt", "a") as log:
            print("step", file=log)
        return {"loss": model.weight.square().sum()}

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return run_loop(
        Loop("score", 40, 0.1, 0.9, 5), model, optimizer, torch.Generator(), losses, fingerprint="", checkpoint_dir=folder,
        progress=progress,
    )

def main(stage):
    history = stage.train(40, train, stage.scratch())
    write_text(stage.fresh(stage.out) / "steps.txt", str(len(history)))
    stage.write_metrics({"total": 1}, headline=("total",))

if __name__ == "__main__":
    run_stage("score", main)
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "params" / "laptop.yaml").read_text())
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "refuse.py").write_text(TOY)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "input.txt").write_text("1")
    return tmp_path


def command(project, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_stage_runs_writes_metrics_and_keeps_times_apart(project):
    code, _, err = finish(command(project, "toy.py", "--shard", "1"))
    assert code == 0, err
    assert (project / "data/fit/shard-1/sum.txt").read_text() == "55"
    reports = project / "data/reports/fit/shard-1"
    assert (reports / "metrics.json").read_text() == '{\n  "missing": "unavailable",\n  "total": 55\n}\n'
    assert (reports / "details.json").read_text() == '{\n  "a": 0.333333\n}\n'
    assert (project / "data/logs/fit-1.json").is_file() and not (project / "data/work/fit-1").exists()
    assert "6/6" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["refuse.py", "--shard", "0"], ["portrait.png: expected a person, found none"]),
        (["toy.py", "--shard", "7"], ["--shard: expected one of [0, 1], found 7"]),
        (["toy.py", "--shard", "0", "--params", "none.yaml"], ["none.yaml", "no such file"]),
    ],
)
def test_users_mistakes_end_with_code_2_and_one_line(project, arguments, words):
    code, out, err = finish(command(project, *arguments))
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1
    assert all(word in err for word in words) and "Traceback" not in err
    assert not (project / "data" / "fit").exists()


def test_a_training_that_is_told_to_end_ends_with_code_75_and_goes_on(project):
    process, work = command(project, "train.py"), project / "data/work/score"
    while not (kept := sorted(work.glob("*/train-*.safetensors"))):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    code, out, err = finish(process)
    assert (
        code == 75 and out == "" and "interrupted: score: ended after step" in err and "Traceback" not in err
    )
    reached = sorted(work.glob("*/train-*.safetensors"))[-1]
    assert reached.name > kept[0].name and not (project / "data/score").exists()
    (project / "params.yaml").write_text(
        (project / "params.yaml").read_text().replace("  workers: 2", "  workers: 1")
    )
    code, _, err = finish(command(project, "train.py"))
    assert code == 0 and (project / "data/score/steps.txt").read_text() == "40"
    assert len((project / "calls.txt").read_text().split()) == 40 and not work.exists()


def test_killed_stage_goes_on_where_it_was(project):
    process = command(project, "toy.py", "--shard", "0")
    work = project / "data/work/fit-0"
    deadline = time.monotonic() + 60
    while len([p for p in work.glob("*/*") if not p.name.startswith(".")]) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    finish(process)
    time.sleep(2.0)  # its workers notice and end
    assert not (project / "data/fit/shard-0/sum.txt").exists()
    before = (project / "calls.txt").read_text().split()
    code, _, err = finish(command(project, "toy.py", "--shard", "0"))
    assert code == 0, err
    assert (project / "data/fit/shard-0/sum.txt").read_text() == "55"
    calls = (project / "calls.txt").read_text().split()
    assert sorted(calls) == [str(k) for k in range(6)] and len(before) >= 2  # nothing was done twice


def test_scratch_of_other_inputs_is_not_used(project, monkeypatch):
    monkeypatch.chdir(project)
    stage = Stage("fit", 0, Params())
    first = stage.scratch(Path("input.txt"))
    (first / "part").write_text("x")
    assert stage.scratch(Path("input.txt")) == first and (first / "part").exists()
    Path("input.txt").write_text("2")
    assert stage.scratch(Path("input.txt")) != first and not first.exists()


def test_seeds_differ_by_stage_and_key_and_repeat():
    fit, embed = Stage("fit", 0, Params()), Stage("embed", None, Params())
    assert fit.rng("a").integers(1 << 40) == fit.rng("a").integers(1 << 40)
    assert len({s.entropy(*k) for s in (fit, embed) for k in (("a",), ("b",), ("a", 1))}) == 6


def test_metrics_are_flat_finite_and_rounded():
    tidy = tidy_metrics({"b": np.float32(1.23456789), "a": 3, "c": None})
    assert list(tidy) == ["a", "b", "c"] and tidy["b"] == 1.23457 and tidy["c"] == "unavailable"
    for bad in (float("nan"), float("inf"), [1], {"x": 1}):
        with pytest.raises(ValueError, match="metric x"):
            tidy_metrics({"x": bad})
    assert csv_text([{"step": 1, "loss": 1 / 3}]) == "step,loss\n1,0.333333\n"


def test_a_headline_is_short_and_names_metrics(tmp_path):
    stage = Stage("embed", None, Params(), tmp_path)
    many = {f"m{k:02}": k for k in range(HEADLINE + 1)}
    with pytest.raises(ValueError, match="at most 12 metrics, found 13"):
        stage.write_metrics(many, headline=tuple(many))
    with pytest.raises(ValueError, match=r"found \['lips'\]"):
        stage.write_metrics(many, headline=("m01", "lips"))
    assert not stage.reports.exists()


def refuse_three(k):
    if k == 3:
        raise UserError(f"clip {k}: expected sound, found none")
    return k


def die_once(job):
    k, marker = job
    if k == 2 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return k * 10


def die_always(k):
    os.kill(os.getpid(), signal.SIGKILL)


def warn_of(k):
    warn(f"clip {k}: expected sound, found none")
    return k


def test_warnings_of_workers_are_one_plain_line(capfd):
    assert process_map(warn_of, [4], 1) == [4]
    assert "warning: clip 4: expected sound, found none" in capfd.readouterr().err.splitlines()


def test_user_errors_come_out_of_workers():
    with pytest.raises(UserError, match="clip 3: expected sound, found none"):
        process_map(refuse_three, range(6), 2)


def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    jobs = [(k, str(tmp_path / "died")) for k in range(5)]
    assert process_map(die_once, jobs, 2) == [0, 10, 20, 30, 40]
    assert (tmp_path / "died").exists()
    with pytest.raises(UserError, match="out of memory"):
        process_map(die_always, range(3), 2)
