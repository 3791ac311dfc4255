"""Predicted time and memory of every stage on two GPUs, by profile: `python -m benchmarks.device --plan [--profile studio ...]`.

No GPU is needed and none was used: steps are counted at their full size without being computed, see `cards` for the model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from avatar_core.device import Compute
from avatar_core.io.atomic import write_json
from benchmarks.device.cards import ASSUMPTIONS, CARDS, GIGA, count, predict
from benchmarks.device.steps import steps
from stages.params import parse_params
from stages.profiles import NAMES, profile_values

COLUMNS = (
    "stage",
    "",
    "times",
    "GFLOP",
    "GB moved",
    "kernels",
    "GB kept",
    "card",
    "ms",
    "bound by",
    "GB",
    "total",
)


def plan(profile: str) -> list[dict[str, str | float]]:
    """Rows: one a step and card."""
    params = parse_params(profile_values(profile))
    bf16 = params.run.precision == "bf16"
    rows: list[dict[str, str | float]] = []
    for step in steps(params, Compute("meta")):
        counted = count(step)
        for card in CARDS:
            found = predict(step, counted, card, bf16)
            rows.append(
                {
                    "profile": profile, "stage": step.stage, "what": step.what, "times": step.times, "flops": counted.flops,
                    "bytes": counted.bytes, "kernels": counted.kernels, "kept_bytes": counted.kept, "card": card.name,
                    "step_s": found.step_s, "bound": "device" if found.device_s >= found.host_s else "CPU",
                    "memory_bytes": found.memory, "fits": float(found.memory < card.memory), "total_s": step.times * found.step_s,
                }
            )  # fmt: skip
    return rows


def show(profile: str, rows: list[dict[str, str | float]]) -> str:
    """As a table in Markdown."""
    lines = [f"\n## {profile}\n", f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        n = {k: float(v) for k, v in row.items() if isinstance(v, (int, float))}
        cells = (
            row["stage"], row["what"], f"{n['times']:.0f}", f"{n['flops'] / GIGA:.3g}", f"{n['bytes'] / GIGA:.3g}",
            f"{n['kernels']:.0f}", f"{n['kept_bytes'] / GIGA:.3g}", row["card"], f"{1e3 * n['step_s']:.3g}", row["bound"],
            f"{n['memory_bytes'] / GIGA:.1f}{'' if n['fits'] else ' (does not fit)'}", _duration(n["total_s"]),
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for card in CARDS:
        total = sum(float(r["total_s"]) for r in rows if r["card"] == card.name)
        lines.append(f"\n{card.name}: {_duration(total)} for these steps, one after the other.")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def main() -> None:
    """Print the plan of some profiles."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--plan", action="store_true", required=True, help="predict; nothing else is offered")
    parser.add_argument("--profile", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    print("Assumptions:\n" + "\n".join(f"* {line}" for line in ASSUMPTIONS))
    rows = []
    for profile in arguments.profile:
        rows += (found := plan(profile))
        print(show(profile, found), flush=True)
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
