"""Ablations: what can be asked for, a workspace of its own for each, and one real one on the smoke run."""

import csv
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from avatar_core.embed.config import AlignedConfig
from avatar_core.errors import UserError
from flows.ablate import chosen, listing, papers_ablations
from flows.ablation_table import Found, write_table
from flows.workspaces import workspace_of
from stages.params import load_params
from stages.profiles import change_params
from tests.flows.parts import commit

ROOT = Path(__file__).resolve().parents[2]


def test_what_parameters_can_express_is_run_and_the_rest_refused_with_a_reason():
    params = load_params(ROOT / "params.yaml")
    assert list(papers_ablations(params)) == ["embedding", "patch", "refiner", "hybrid", "vsd", "trajectory"]
    assert list(chosen([], [], params)) == ["refiner", "vsd", "trajectory"]
    assert chosen(["vsd"], ["l1-out:distill.weights.l1=0, distill.steps=5"], params) == {
        "vsd": {"distill.weights.vsd": 0.0},
        "l1-out": {"distill.weights.l1": 0, "distill.steps": 5},
    }
    refused = {
        "patch": "the embedding shapes nothing here",
        "hybrid": "one teacher .procedural.",
        "nothing": "expected one of",
    }
    for name, reason in refused.items():
        with pytest.raises(UserError, match=reason):
            chosen([name], [], params)
    for text in ("x", "x:", "full:a=1", "../x:a=1", "x:a"):
        with pytest.raises(UserError, match="--also: expected NAME:KEY=VALUE"):
            chosen([], [text], params)
    two = dataclasses.replace(params.teacher, backends={"procedural": 1.0, "folder": 0.5})
    both = papers_ablations(dataclasses.replace(params, teacher=two))
    assert both["hybrid"] == {"teacher.backends": {"procedural": 1.0}}
    embed = dataclasses.replace(params.embed, aligned=AlignedConfig(enabled=True))
    aligned = chosen(["embedding", "patch"], [], dataclasses.replace(params, embed=embed))
    assert aligned == {
        "embedding": {"embed.aligned.enabled": False},
        "patch": {"embed.contrastive.patch_weight": 0.0},
    }
    assert "not now: " in listing(papers_ablations(params)) and len(listing(both).splitlines()) == 6


def test_the_table_has_every_run_and_how_far_it_is(tmp_path):
    def clips(*values):
        return {
            f"c{k}": {"person": "ab"[k // 2], "SyncD": str(v), "HKC": "" if k else "0.5"}
            for k, v in enumerate(values)
        }

    full = Found(["FID", "PSNR"], {"FID": 2.0, "PSNR": 22.5, "ours.FID": 2.0}, clips(1, 2, 3, 4))
    runs = {
        # one person's clips moved by 1, the other's by 3
        "vsd": Found(["FID"], {"FID": 2.5, "PSNR": 22.0, "ours.FID": 2.25}, clips(2, 3, 6, 7)),
        "own": Found(["FID"], {"FID": 2.0}, {}),
    }
    text = write_table(tmp_path, full, runs)
    assert text.splitlines() == [
        "| metric | full | w/o vsd | w/o own |",
        "|---|---|---|---|",
        "| FID | 2 | 2.5 (+0.5) | 2 (same) |",
        "| PSNR | 22.5 | 22 (-0.5) |  |",
        "",
        "| change from the full run | SyncC | SyncD | HKC | FID | FVD |",
        "|---|---|---|---|---|---|",
        "| w/o vsd |  | +2 (+1 to +3) | +0 (+0 to +0) | +0.25 |  |",
        "| in the paper | -0.3 | +0.36 | -0.011 | +2.6 | +50 |",
        "| w/o own |  |  |  |  |  |",
    ]
    rows = list(csv.DictReader(open(tmp_path / "table.csv")))
    assert rows[1] == {"metric": "PSNR", "full": "22.5", "vsd": "22", "own": ""}


def test_a_workspace_has_the_tree_as_it_is_and_its_own_parameters(clone, tmp_path):
    root = clone("workspaces").root
    commit(root)
    with open(root / "stages/report.py", "a") as file:
        file.write("# not committed\n")
    before = (root / "params.yaml").read_text(), (root / "stages/report.py").read_text()
    made = workspace_of(root, "no-vsd", {"distill.weights.vsd": 0}, print, tmp_path)
    assert yaml.safe_load((made / "params.yaml").read_text())["distill"]["weights"]["vsd"] == 0
    assert (made / "stages/report.py").read_text().endswith("# not committed\n")
    said = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=made, capture_output=True, text=True
    )
    assert Path(said.stdout.strip()) == root / ".dvc/cache"
    # again, from an older state: the changes of before are gone
    again = workspace_of(root, "no-vsd", {"distill.weights.l1": 0}, print, tmp_path)
    weights = yaml.safe_load((again / "params.yaml").read_text())["distill"]["weights"]
    assert again == made and weights["l1"] == 0 and weights["vsd"] == 0.02
    with pytest.raises(UserError, match="distill.weights.vds"):
        workspace_of(root, "typo", {"distill.weights.vds": 0}, print, tmp_path)
    assert before == ((root / "params.yaml").read_text(), (root / "stages/report.py").read_text())


def test_parameters_are_changed_whole_or_not_at_all(clone):
    root = clone("parameters").root
    for k in range(3):
        (root / f"data/fit/shard-{k}").mkdir(parents=True)
    assert change_params({"run.shards": [0, 1, 2]}, root) == []
    assert change_params({"run.shards": [0], "distill.steps": 7}, root) == [
        root / f"data/fit/shard-{k}" for k in (1, 2)
    ]
    text = (root / "params.yaml").read_text()
    assert load_params(root / "params.yaml").distill.steps == 7 and "# frames" in text
    for bad in ({"distill.steps": -1}, {"nosuch.key": 1}, {"distill.steps.x": 1}):
        with pytest.raises(UserError, match="params.yaml"):
            change_params(bad, root)
    assert (root / "params.yaml").read_text() == text


@pytest.mark.cluster  # minutes of stages: behind make test-cluster
def test_an_ablation_runs_only_what_it_touches(smoke, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(smoke.root, root, symlinks=True)
    commit(root)
    lock = (root / "dvc.lock").read_text()
    environment = {
        **os.environ,
        "HOME": str(tmp_path / "home"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PYTHONPATH": str(root),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "avatar_core.cli", "ablate", "trajectory"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "[full] to make or restore: nothing" in done.stdout
    (line,) = (x for x in done.stdout.splitlines() if x.startswith("[trajectory] to make or restore: "))
    # the baseline's row is left out, which takes no time
    assert sorted(line.split(": ")[1].split(", ")) == ["baseline", "distill", "evaluate"]
    assert "| metric | full | w/o trajectory |" in done.stdout
    rows = {row["metric"]: row for row in csv.DictReader(open(root / "ablations/table.csv"))}
    assert rows["ours.CSIM"]["full"] and rows["ours.CSIM"]["trajectory"]
    assert any(row["full"] != row["trajectory"] for name, row in rows.items() if name.startswith("ours."))
    assert all(row["full"] == row["trajectory"] for name, row in rows.items() if name.startswith("before_"))
    assert (root / "dvc.lock").read_text() == lock
    # a second time everything comes from the cache
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Running stage" not in done.stdout
    assert done.stdout.count("is cached - skipping run") == 3
