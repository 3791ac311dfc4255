"""The tables of ablations: what each run's evaluation found, how far that is from the full run, and what the paper says.

A difference is over the same clips of the same people in both runs, so its interval is a bootstrap over people of the clips'
differences; FID and FVD are of all clips together and have none. One seed a run: an interval says nothing of another training.

Source of PAPER: AudioAvatar, table of the ablation study.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avatar_core.io.atomic import write_text
from avatar_core.metrics.bootstrap import Interval, bootstrap
from stages.common import csv_text

Numbers = Mapping[str, float]
Clips = dict[str, dict[str, str]]
DRAWS = 2000
PAPER_METRICS = ("SyncC", "SyncD", "HKC", "FID", "FVD")
PAPER_FULL = (7.20, 5.42, 0.897, 12.4, 240.0)
PAPER = {
    "embedding": (7.05, 5.60, 0.890, 13.8, 265.0),
    "patch": (7.15, 5.45, 0.870, 13.1, 252.0),
    "refiner": (7.10, 5.50, 0.860, 13.7, 258.0),
    "hybrid": (6.85, 5.80, 0.888, 14.2, 272.0),
    "vsd": (6.90, 5.78, 0.886, 15.0, 290.0),
    "trajectory": (6.70, 6.20, 0.872, 15.6, 310.0),
}


@dataclass(frozen=True)
class Found:
    """What a run's evaluation found: names of the headline metrics, all numbers, and the row `ours` clip by clip."""

    headline: list[str]
    numbers: Numbers
    clips: Clips


def read_found(workspace: Path, stage: str = "evaluate") -> Found:
    """From the reports of a finished run in a workspace."""
    folder = workspace / "data" / "reports" / stage
    headline, details = (json.loads((folder / f"{n}.json").read_text()) for n in ("metrics", "details"))
    both = {**headline, **details}
    numbers = {k: float(v) for k, v in sorted(both.items()) if isinstance(v, (int, float))}
    with open(folder / "clips.csv", newline="") as file:
        clips = {row["clip"]: row for row in csv.DictReader(file) if row["row"] == "ours"}
    return Found(list(headline), numbers, clips)


def write_table(out: Path, full: Found, ablations: Mapping[str, Found]) -> str:
    """Write out/table.csv, every number of every run, and out/table.md, the headline and the paper's metrics; returns its text.

    A run without a number that the full run has shows nothing there.
    """
    rows = [
        {
            "metric": name,
            "full": value,
            **{run: found.numbers.get(name, "") for run, found in ablations.items()},
        }
        for name, value in full.numbers.items()
    ]
    text = [f"| metric | full | {' | '.join(f'w/o {run}' for run in ablations)} |"]
    text += ["|---|" + "---|" * (1 + len(ablations))]
    for name in (n for n in full.headline if n in full.numbers):
        value = full.numbers[name]
        cells = [_cell(found.numbers.get(name), value) for found in ablations.values()]
        text += [f"| {name} | {value:.4g} | {' | '.join(cells)} |"]
    table = "\n".join([*text, "", *_beside_the_paper(full, ablations)]) + "\n"
    write_text(out / "table.csv", csv_text(rows))
    write_text(out / "table.md", table)
    return table


def difference(metric: str, full: Found, other: Found) -> Interval | None:
    """Of `other` from `full`, with its interval over people; None where clips have no number of their own."""
    both = [
        (float(other.clips[c][metric]) - float(row[metric]), row["person"])
        for c, row in full.clips.items()
        if row.get(metric) and other.clips.get(c, {}).get(metric)
    ]
    if not both:
        return None
    return bootstrap([d for d, _ in both], draws=DRAWS, groups=[person for _, person in both])


def _beside_the_paper(full: Found, ablations: Mapping[str, Found]) -> list[str]:
    lines = [
        f"| change from the full run | {' | '.join(PAPER_METRICS)} |",
        "|---|" + "---|" * len(PAPER_METRICS),
    ]
    for run, found in ablations.items():
        cells = []
        for metric in PAPER_METRICS:
            apart, name = difference(metric, full, found), f"ours.{metric}"
            if apart is not None:
                cells.append(f"{apart.value:+.2g} ({apart.low:+.2g} to {apart.high:+.2g})")
            elif name in full.numbers and name in found.numbers:
                cells.append(f"{found.numbers[name] - full.numbers[name]:+.2g}")
            else:
                cells.append("")
        lines.append(f"| w/o {run} | {' | '.join(cells)} |")
        if run in PAPER:
            changes = (f"{a - b:+.3g}" for a, b in zip(PAPER[run], PAPER_FULL, strict=True))
            lines.append(f"| in the paper | {' | '.join(changes)} |")
    return lines


def _cell(value: float | None, full: float) -> str:
    if value is None:
        return ""
    return f"{value:.4g} (same)" if value == full else f"{value:.4g} ({value - full:+.2g})"
