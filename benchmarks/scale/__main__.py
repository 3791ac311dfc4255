"""The scale sheet: `python -m benchmarks.scale [--run FOLDER]`, from the costs of the run that lies finished there.

Core hours are those of the run's own settings and of this machine's cores. The trainings' GPU hours are what
`python -m benchmarks.device --plan --profile cluster` predicts; their steps are parameters and do not grow with people.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from avatar_core.errors import UserError
from benchmarks.scale.costs import GATHER, GROWS, SHARDED, Run, dvc_costs, measured
from benchmarks.scale.simulate import Fleet, Outcome, shard_seconds, simulate
from flows.dispatch import POLL, WIDTH_ASKED

PEOPLE = (1_000, 10_000, 100_000)
GB, HOUR = 1e9, 3600.0
TRAINING_GPU_HOURS = 74  # of the cluster profile on one H100, predicted


def sheet(run: Run, fleet: Fleet, cores: int, shards: int) -> str:
    """Time, hours, storage and files for PEOPLE, a row each."""
    head = [
        "people",
        "clips",
        "core hours",
        "of it not sharded",
        "sharded, days",
        "one worker, days",
        "GPU hours",
    ]
    head += ["outputs, GB", "files", "GB to restore for distill"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for people in PEOPLE:
        clips = people * run.clips_a_person
        grown = {"person": people, "clip": clips, "nothing": 1}
        n = {stage: grown[kind] for stage, kind in GROWS.items()}
        core = {stage: cost.core_seconds * n[stage] / HOUR for stage, cost in run.costs.items()}
        apart = sum(core[stage] for stage in core if stage not in SHARDED)
        outcome = fleet_outcome(run, people, fleet, cores, shards)
        cells = [
            people,
            clips,
            sum(core.values()),
            apart,
            outcome.makespan / 86400,
            apart / cores / 24,
            TRAINING_GPU_HOURS,
        ]
        cells += [
            sum(c.bytes * n[s] for s, c in run.costs.items()) / GB,
            sum(c.files * n[s] for s, c in run.costs.items()),
        ]
        cells += [sum(run.costs[s].bytes * n[s] for s in GATHER) / GB]
        lines.append("| " + " | ".join(f"{c:,.0f}" if c >= 10 else f"{c:.2g}" for c in cells) + " |")
    return "\n".join(lines)


def fleet_outcome(run: Run, people: int, fleet: Fleet, cores: int, shards: int) -> Outcome:
    """The sharded stages of so many people over the fleet; each worker has `cores` cores at work on its shard."""
    mean = run.frames.mean()
    a_frame = [run.costs[stage].core_seconds / mean / cores for stage in SHARDED]
    chains = shard_seconds(run.frames, round(people * run.clips_a_person), min(shards, people), a_frame)
    return simulate(chains, fleet)


def best_shards(run: Run, people: int, fleet: Fleet, cores: int, most: int) -> int:
    """The number of shards, `most` at most, that ends first: few waste the end of the run, many the time between items."""
    tried = {min(fleet.workers * n, most, people) for n in (1, 2, 3, 4, 6, 8, 12, 16)} | {min(most, people)}
    return min(sorted(tried), key=lambda n: fleet_outcome(run, people, fleet, cores, n).makespan)


def breaks_first(run: Run, disk_gb: float, cores: int, patience_days: float) -> list[tuple[float, str]]:
    """(people, what gives way there), the first first."""
    a_person = {
        stage: run.costs[stage].bytes * (run.clips_a_person if GROWS[stage] == "clip" else 1)
        for stage in GROWS
    }
    seconds = sum(
        run.costs[s].core_seconds * (run.clips_a_person if GROWS[s] == "clip" else 1)
        for s in GROWS
        if s not in SHARDED and GROWS[s] != "nothing"
    )
    files = sum(run.costs[s].files * (run.clips_a_person if GROWS[s] == "clip" else 1) for s in GROWS)
    restored, gathered = sum(a_person[s] for s in GATHER), ", ".join(GATHER)
    found = [
        (
            disk_gb * GB / restored,
            f"the disk of distill's worker ({disk_gb:.0f} GB), which restores all of {gathered}",
        ),
        (
            patience_days * 86400 * cores / seconds,
            f"speech, score and embed, on one worker, take {patience_days:.0f} days",
        ),
        (1e7 / files, "10 million files in DVC's cache"),
    ]
    return sorted(found)


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--run", default=".", help="a workspace with a finished run (default: here)")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--cores", type=int, default=16, help="of a worker")
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--failures", type=float, default=1.0, help="percent of the workers in an hour")
    parser.add_argument("--disk", type=float, default=200.0, help="GB of a worker")
    parser.add_argument("--dvc", action="store_true", help="also measure what DVC costs, a minute or two")
    arguments = parser.parse_args()
    try:
        for name in ("workers", "cores", "shards"):
            if getattr(arguments, name) < 1:
                raise UserError(f"--{name}: expected 1 or more, found {getattr(arguments, name)}")
        run = measured(Path(arguments.run))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    fleet = Fleet(arguments.workers, arguments.failures / 100)
    print(
        f"costs: {run.clips} clips of {run.people} people in {arguments.run}, {run.clips_a_person:.0f} clips a person\n"
    )
    print(sheet(run, fleet, arguments.cores, arguments.shards) + "\n")
    for people in PEOPLE:
        for shards in sorted(
            {arguments.shards, best_shards(run, people, fleet, arguments.cores, arguments.shards)}
        ):
            outcome = fleet_outcome(run, people, fleet, arguments.cores, shards)
            print(
                f"{people:,} people in {shards} shards on {fleet.workers} workers: utilisation {outcome.utilisation(fleet):.1%} "
                f"over {outcome.makespan / HOUR:.1f} h; {outcome.failures} workers lost, {outcome.lost / HOUR:.1f} h of work with "
                f"them; the last {outcome.idle / 60:.0f} min not all had work"
            )
    waiting = min(arguments.shards * len(SHARDED), WIDTH_ASKED * 8)
    print(
        f"\nrequests a second of a coordinator that waits for {waiting} runs: {waiting / POLL / (1 + waiting / WIDTH_ASKED):.0f}"
    )
    print("\nwhat gives way first:")
    for people, what in breaks_first(run, arguments.disk, arguments.cores, 7):
        print(f"  {people:12,.0f} people: {what}")
    if arguments.dvc:
        print(
            "\n| stage items | files of an output | CPU s of an item | CPU s of dvc status |\n|---|---|---|---|"
        )
        for items, files in ((10, 100), (1000, 100), (10, 1000)):
            cost = dvc_costs(items, files)
            print(f"| {cost.items} | {cost.files} | {cost.item:.1f} | {cost.status:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
