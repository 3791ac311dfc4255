"""What every stage shares: its command line, checked parameters, places on disk, metrics, scratch that survives a kill.

    def main(stage: Stage) -> None: ...
    if __name__ == "__main__":
        run_stage("fit", main, sharded=True)

Outputs hold nothing that changes from run to run; times go to `data/logs/`, which nobody tracks.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from avatar_core.device import Compute, cards, resolve, too_little_memory
from avatar_core.errors import Interrupted, UserError, one_line_warnings
from avatar_core.io.atomic import clean_leftovers, sha256_file, write_json, write_text
from avatar_core.models.card import Published
from avatar_core.models.files import verify_file
from stages.memory import check_memory
from stages.params import PARAMS, Params, load_params
from stages.progress import Bar
from stages.workers import process_map

T = TypeVar("T")
R = TypeVar("R")
DATA = Path("data")
STAGES = (
    "identities",
    "speech",
    "teacher",
    "score",
    "fit",
    "embed",
    "generator",
    "baseline",
    "distill",
    "evaluate",
    "report",
)
SHARDED = ("teacher", "fit")
TRAINING = (
    "score",
    "embed",
    "generator",
    "baseline",
    "distill",
)  # compute on `run.device`, in `run.precision`
RENDERING = ("fit", "distill", "evaluate")  # compute and draw on `run.device`
PERCEIVING = {  # stages that look through detectors -> the detectors' roles
    "teacher": ("masks", "tracks"),
    "fit": ("keypoints", "masks"),
    "evaluate": ("keypoints",),
}
HEADLINE = 12  # metrics of a stage that `dvc metrics` shows, at most


@dataclass(frozen=True)
class Stage:
    """One run of one stage (one shard of it where it is sharded)."""

    name: str
    shard: int | None
    params: Params
    data: Path = DATA

    @property
    def label(self) -> str:
        return self.name if self.shard is None else f"{self.name}-{self.shard}"

    @property
    def seed(self) -> int:
        return self.params.run.seed

    @property
    def compute(self) -> Compute:
        """What `run.device` and `run.precision` stand for here. Raises UserError where they cannot be had."""
        return self.resolve_compute(None)

    def resolve_compute(self, say: Callable[[str], None] | None) -> Compute:
        """As `compute`; `say` hears what auto chose."""
        run = self.params.run
        compute = resolve(
            run.device, run.precision, where="run.device", renders=self.name in RENDERING, say=say
        )
        if self.name in TRAINING and compute.on_card and run.processes > (count := cards()):
            raise UserError(f"run.processes: expected {count} or less, a GPU for each, found {run.processes}")
        if (
            self.name in TRAINING and compute.on_card
        ):  # on the CPU a step waits for its own work, not for its batch
            return dataclasses.replace(compute, ahead=run.workers)
        return compute

    @property
    def out(self) -> Path:
        """data/<stage>[/shard-<k>]"""
        return self.place(self.data / self.name)

    @property
    def reports(self) -> Path:
        """data/reports/<stage>[/shard-<k>]"""
        return self.place(self.data / "reports" / self.name)

    def place(self, folder: Path) -> Path:
        return folder if self.shard is None else folder / f"shard-{self.shard}"

    def shards(self, folder: str) -> list[Path]:
        """All shards of another stage's output, e.g. shards("teacher")."""
        return [self.data / folder / f"shard-{k}" for k in self.params.run.shards]

    def fresh(self, folder: Path) -> Path:
        """Empty `folder` and return it. Never writes into old files: they may be links into DVC's cache."""
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def rng(self, *keys: int | str) -> np.random.Generator:
        """A generator of its own for every use: seeded by the run's seed, the stage's name and `keys`."""
        return np.random.default_rng(self.entropy(*keys))

    def entropy(self, *keys: int | str) -> int:
        """The integer behind `rng`, also good for `torch.Generator().manual_seed`."""
        text = json.dumps([self.seed, self.name, *keys])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

    def progress(self, total: int, unit: str = "step") -> Bar:
        """`with stage.progress(n) as bar: bar.advance(note="loss 0.1")`: rate and time left on the terminal."""
        return Bar(self.label, total, unit)

    def map(self, fn: Callable[[T], R], items: Sequence[T], unit: str = "clip") -> list[R]:
        """`[fn(x) for x in items]` over `run.workers` processes with a progress bar; fn is a module-level function."""
        with self.progress(len(items), unit) as bar:
            return process_map(fn, items, self.params.run.workers, on_done=bar.advance)

    def train(self, steps: int, train: Callable[..., R], *arguments: Any, **named: Any) -> R:
        """`train(*arguments, **named, progress=..., compute=...)` in `run.processes` processes that share its batches: with one,
        here. Raises Interrupted when a SIGTERM came."""
        count = self.params.run.processes
        if count == 1:
            with self.progress(steps) as bar:
                return train(*arguments, **named, progress=bar.reach, compute=self.compute)
        from stages.processes import train_in_processes

        return train_in_processes(count, self.label, steps, train, arguments, named, self.compute)

    def scratch(self, *inputs: Path) -> Path:
        """A folder for parts of the work that survive a kill: `data/work/<stage>/<fingerprint>/`.

        The fingerprint covers the parameters (but for how many processes there are), the code and the content of `inputs`: parts
        made from anything else are never found (and are removed). The folder goes when the stage ends well.
        """
        alike = dataclasses.replace(self.params.run, workers=1, processes=1)
        params = dataclasses.asdict(dataclasses.replace(self.params, run=alike))
        digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode())
        code = [p for folder in ("avatar_core", "stages") for p in Path(folder).rglob("*")]
        for path in sorted(p for p in code if p.suffix in (".py", ".cpp", ".h", ".safetensors", ".yaml")):
            digest.update(f"{path} {sha256_file(path)}\n".encode())
        for root in inputs:
            files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
            for path in files:
                digest.update(f"{path} {sha256_file(path)}\n".encode())
        folder = self._work / digest.hexdigest()[:16]
        for other in self._work.glob("*"):
            if other != folder:
                shutil.rmtree(other)
        folder.mkdir(parents=True, exist_ok=True)
        clean_leftovers(folder)
        return folder

    @property
    def _work(self) -> Path:
        return self.data / "work" / self.label

    def write_metrics(self, metrics: Mapping[str, Any], headline: Sequence[str]) -> None:
        """Write the metrics named in `headline` to `metrics.json`, which `dvc metrics` shows, the others to `details.json`.

        Both flat and sorted, numbers to 6 digits; None becomes "unavailable", never 0. Raises ValueError: more than
        `HEADLINE` names, a name that is not in `metrics`.
        """
        if len(headline) > HEADLINE:
            raise ValueError(f"headline: expected at most {HEADLINE} metrics, found {len(headline)}")
        if missing := sorted(set(headline) - set(metrics)):
            raise ValueError(f"headline: expected names of metrics, found {missing}")
        tidy = tidy_metrics(metrics)
        write_json(self.reports / "metrics.json", {k: v for k, v in tidy.items() if k in headline})
        write_json(self.reports / "details.json", {k: v for k, v in tidy.items() if k not in headline})

    def write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows with the same keys to `<name>.csv` in this stage's reports (a plot for DVC)."""
        write_text(self.reports / f"{name}.csv", csv_text(rows))


def check_detectors(name: str, params: Params) -> None:
    """Raises UserError where a published detector that a stage looks through lacks something, or its file is another."""
    for role in PERCEIVING.get(name, ()):
        detector = params.perception.chosen[role]
        if isinstance(detector, Published):
            for line in detector.lacking():
                raise UserError(line)
            for file, sha256 in detector.folders().items():
                verify_file(file, sha256)


def tidy_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Sorted flat metrics; raises ValueError for NaN or nested values (a metric that could not run is None)."""
    tidy: dict[str, Any] = {}
    for key in sorted(metrics):
        value = metrics[key]
        if isinstance(value, np.generic):
            value = value.item()
        if value is None:
            value = "unavailable"
        if isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError(f"metric {key}: expected a finite number or None, found {value}")
            value = float(f"{value:.6g}")
        if not isinstance(value, (bool, int, float, str)):
            raise ValueError(f"metric {key}: expected a number or a text, found {type(value).__name__}")
        tidy[str(key)] = value
    return tidy


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows -> CSV text, floats to 6 digits."""
    buffer = io.StringIO()
    names = list(rows[0]) if rows else []
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, (float, np.floating)) else v for k, v in row.items()})
    return buffer.getvalue()


def run_stage(
    name: str, main: Callable[[Stage], None], *, sharded: bool = False, argv: Iterable[str] | None = None
) -> None:
    """The command line of a stage. Ends the process: 0 when done, 2 with one line when the user's input cannot be used, 75
    (EX_TEMPFAIL) when a SIGTERM came and the same command would go on from where it was."""
    assert name in STAGES and sharded == (name in SHARDED), name
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}", description=(main.__doc__ or "").strip() or None
    )
    parser.add_argument("--params", default=str(PARAMS), help="parameter file (default: params.yaml)")
    if sharded:
        parser.add_argument("--shard", type=int, required=True, help="which shard, 0 .. len(run.shards) - 1")
    arguments = parser.parse_args(None if argv is None else list(argv))
    one_line_warnings()
    heard = signal.getsignal(signal.SIGTERM)
    try:
        params = load_params(arguments.params)
        shard = getattr(arguments, "shard", None)
        if shard is not None and shard not in params.run.shards:
            raise UserError(f"--shard: expected one of {params.run.shards}, found {shard}")
        stage = Stage(name, shard, params)
        if name in (*TRAINING, *RENDERING):  # nobody waits for hours to hear that there is no GPU
            compute = stage.resolve_compute(lambda line: print(line, file=sys.stderr))
            check_memory(name, params, compute)
        check_detectors(name, params)
        if name in TRAINING:
            signal.signal(signal.SIGTERM, _interrupt)
        _execute(stage, main)
    except Interrupted as end:
        print(f"interrupted: {end}; the same command goes on from there", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    except UserError as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if (line := too_little_memory(error)) is None:
            raise
        print(f"error: {name}: {line}", file=sys.stderr)
        sys.exit(2)
    finally:
        signal.signal(signal.SIGTERM, heard)


def _interrupt(*_: object) -> None:
    raise Interrupted("ended outside of training")


def _execute(stage: Stage, main: Callable[[Stage], None]) -> None:
    start = time.monotonic()
    for folder in (stage.out, stage.reports):
        if folder.exists():
            clean_leftovers(folder)
    if stage.name != "report":
        stage.fresh(stage.reports)
    _limit_threads(stage.params.run.threads)
    main(stage)
    shutil.rmtree(stage._work, ignore_errors=True)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    record = {"seconds": round(time.monotonic() - start, 2), "peak_process_mb": round(peak / 1024)}
    write_json(stage.data / "logs" / f"{stage.label}.json", record)
    print(
        f"{stage.label}: done in {record['seconds']:.1f} s, peak {record['peak_process_mb']} MB a process",
        file=sys.stderr,
    )


def _limit_threads(threads: int) -> None:
    # Sums over several threads depend on how many there are, so the number is a parameter, not the machine's.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    if torch := sys.modules.get("torch"):  # what is imported later reads the variables
        torch.set_num_threads(threads)
