"""What a finished run cost for each clip and person, and what DVC costs for each stage item and file: measured, not assumed."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatar_core.errors import UserError
from avatar_core.io.catalog import read_catalog
from stages.params import PARAMS, load_params

# what a stage's time and outputs grow with; the trainings' steps are parameters and do not grow
GROWS = {
    "identities": "person",
    "speech": "clip",
    "teacher": "clip",
    "score": "clip",
    "fit": "clip",
    "embed": "clip",
    "generator": "nothing",
    "distill": "nothing",
    "evaluate": "nothing",
}
SHARDED = ("teacher", "fit")
GATHER = ("speech", "teacher", "fit", "embed")  # what the worker of distill restores whole


@dataclass(frozen=True)
class Cost:
    """Of one stage for one unit of what it grows with: core seconds, bytes and files of its outputs."""

    core_seconds: float
    bytes: float
    files: float


@dataclass(frozen=True)
class Run:
    """stage -> Cost; people, clips: how many the run had; frames: the clips' lengths."""

    costs: dict[str, Cost]
    people: int
    clips: int
    frames: np.ndarray

    @property
    def clips_a_person(self) -> float:
        return self.clips / self.people


def measured(root: Path) -> Run:
    """The costs of the run that lies finished in the workspace `root`. Raises UserError where it does not."""
    data = root / "data"
    catalog = data / "speech" / "catalog.parquet"
    if not catalog.is_file():
        raise UserError(f"{catalog}: expected a finished run, found none: dvc repro")
    rows, workers = read_catalog(catalog), load_params(root / PARAMS).run.workers
    people = {row["identity"] for row in rows}
    units = {"person": len(people), "clip": len(rows), "nothing": 1}
    costs = {}
    for stage, grows in GROWS.items():
        logs = sorted((data / "logs").glob(f"{stage}*.json"))
        if not logs:
            raise UserError(
                f"{data / 'logs' / stage}.json: expected the time of the stage, found none: dvc repro"
            )
        seconds = sum(json.loads(log.read_text())["seconds"] for log in logs)
        files = [f for f in (data / stage).rglob("*") if f.is_file()]
        size, n = sum(f.stat().st_size for f in files), units[grows]
        costs[stage] = Cost(seconds * workers / n, size / n, len(files) / n)
    return Run(costs, len(people), len(rows), np.array([row["t_len"] for row in rows], float))


@dataclass(frozen=True)
class DvcCost:
    """CPU seconds of one `dvc repro --single-item` and one `dvc status` in a project of so many stage items and files."""

    items: int
    files: int
    item: float
    status: float


def dvc_costs(items: int, files: int, deps: int = 80) -> DvcCost:
    """Measured on a project made for it: `items` stages of a matrix, each with `deps` code files, one output of `files` files."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for k in range(deps):
            (root / f"code{k}.py").write_text(f"# {k}\n")
        code = "".join(f"      - code{k}.py\n" for k in range(deps))
        (root / "dvc.yaml").write_text(
            "stages:\n  first:\n    cmd: mkdir out; for k in $(seq "
            f"{files}); do echo $k > out/$k; done\n    deps:\n{code}    outs: [out]\n"
            f"  shard:\n    matrix: {{k: {list(range(items))}}}\n    cmd: echo ${{item.k}} > s${{item.k}}\n"
            f"    deps:\n{code}      - out\n    outs: ['s${{item.k}}']\n"
        )
        dvc = [sys.executable, "-m", "dvc"]
        subprocess.run(["git", "init", "-q", "."], cwd=root, check=True)
        subprocess.run([*dvc, "init", "-q"], cwd=root, check=True)
        subprocess.run([*dvc, "repro", "-q", "--single-item", "first"], cwd=root, check=True)
        item = _cpu([*dvc, "repro", "-q", "--single-item", "shard@0"], root)
        return DvcCost(items, files, item, _cpu([*dvc, "status", "-q"], root, (0, 1)))


def _cpu(command: list[str], root: Path, codes: tuple[int, ...] = (0,)) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode not in codes:
        raise RuntimeError(f"{' '.join(command[2:])}: {done.stderr.strip()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
