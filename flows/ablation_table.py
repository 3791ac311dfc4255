"""The table of ablations: what each run's evaluation found, and how far that is from the full run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from avatar_core.io.atomic import write_text
from stages.common import csv_text

Numbers = Mapping[str, float]


def read_numbers(workspace: Path, stage: str = "evaluate") -> tuple[list[str], dict[str, float]]:
    """(names of the headline metrics, all numbers) of a stage's reports in a workspace."""
    folder = workspace / "data" / "reports" / stage
    headline, details = (json.loads((folder / f"{n}.json").read_text()) for n in ("metrics", "details"))
    both = {**headline, **details}
    return list(headline), {k: float(v) for k, v in sorted(both.items()) if isinstance(v, (int, float))}


def write_table(out: Path, full: Numbers, ablations: Mapping[str, Numbers], headline: list[str]) -> str:
    """Write out/table.csv, every number of every run, and out/table.md, the headline; returns the latter's text.

    A run without a number that the full run has shows nothing there.
    """
    rows = [
        {"metric": name, "full": value, **{run: found.get(name, "") for run, found in ablations.items()}}
        for name, value in full.items()
    ]
    text = [f"| metric | full | {' | '.join(f'w/o {run}' for run in ablations)} |"]
    text += ["|---|" + "---|" * (1 + len(ablations))]
    for name in (n for n in headline if n in full):
        cells = [_cell(found.get(name), full[name]) for found in ablations.values()]
        text += [f"| {name} | {full[name]:.4g} | {' | '.join(cells)} |"]
    table = "\n".join(text) + "\n"
    write_text(out / "table.csv", csv_text(rows))
    write_text(out / "table.md", table)
    return table


def _cell(value: float | None, full: float) -> str:
    if value is None:
        return ""
    return f"{value:.4g} (same)" if value == full else f"{value:.4g} ({value - full:+.2g})"
