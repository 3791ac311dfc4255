"""What a stage costs beside its own work: `python -m benchmarks.scale.overhead`, on a chain of stages that copy a word.

Three ways, one after the other: plain `dvc repro`; `flows.pipeline` in one workspace; `flows.remote` with a real Prefect server and
one process worker, both on this machine. Seconds a stage, and for the worker the three that `benchmarks.scale` simulates with: from
the coordinator's sending until the stage starts, from its end until its outputs are with the others, from there until the
coordinator has sent the next. Server and worker are those of the tests.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np

from tests.flows.parts import DVC, PYTHON, ROOT, dvc_project, git
from tests.flows.servers import Cluster

Seconds = list[float]


def chain(length: int) -> str:
    """A dvc.yaml of so many stages, each of which copies what the one before it made, and says when."""
    text = "stages:\n"
    for k in range(length):
        before = f"s{k - 1}.txt" if k else "input.txt"
        text += f"  s{k}:\n    cmd: cat {before} > s{k}.txt && date +%s.%N >> ../s{k}.time\n    deps: [{before}]\n"
        text += f"    outs: [s{k}.txt]\n"
    return text


def timed(command: list[str], folder: Path) -> float:
    start = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.monotonic() - start


def on_a_worker(folder: Path, origin: Path, length: int) -> tuple[Seconds, Seconds, Seconds]:
    """(until the stage starts, until its outputs are out, until the next is sent), a number a stage."""
    revision = git(origin, "rev-parse", "HEAD")
    cluster = Cluster(folder)
    try:
        cluster.worker("worker")
        time.sleep(10)
        cluster.finish("coordinator", cluster.coordinator("coordinator", origin, revision), 60 * length)
        runs = {run["name"].split()[0]: run for run in cluster.runs()}
    finally:
        cluster.end()
    clones = next((folder / "worker/.cache/audioavatar/clones").glob("*.time")).parent
    sent, ended = ([_seconds(runs[f"s{k}"][what]) for k in range(length)] for what in ("created", "end_time"))
    worked = [float((clones / f"s{k}.time").read_text().split()[-1]) for k in range(length)]
    return (
        [b - a for a, b in zip(sent, worked, strict=True)],
        [b - a for a, b in zip(worked, ended, strict=True)],
        [b - a for a, b in zip(ended, sent[1:], strict=False)],
    )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale.overhead", description=__doc__)
    parser.add_argument("--stages", type=int, default=6)
    length = parser.parse_args().stages
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = Path(name)
        origin = dvc_project(folder, chain(length))
        for way in ("plain", "flow"):
            git(folder, "clone", "-q", str(origin), f"{way}/clone")
        plain = timed([*DVC, "repro", "-q"], folder / "plain/clone") / length
        print(f"plain dvc repro: {plain:.1f} s a stage")
        flow = timed([PYTHON, "-m", "flows.pipeline", "--root", str(folder / "flow/clone")], ROOT) / length
        print(f"flows.pipeline, its server's start and end shared out: {flow:.1f} s a stage")
        parts = on_a_worker(folder, origin, length)
        before, after, notice = (float(np.median(part)) for part in parts)
        print(
            f"one worker: {before + after + notice:.1f} s a stage, the median: {before:.1f} from sending to the stage's start, "
            f"{after:.1f} from its end until its outputs are with the others, {notice:.1f} until the next is sent"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
