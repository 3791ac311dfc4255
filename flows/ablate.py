"""One run for each ablation, beside the full run: the same pipeline with one thing left out, and one table of all.

    python -m flows.ablate                        # those of the paper that parameters can express
    python -m flows.ablate vsd --also no-l1:distill.weights.l1=0

Every run has a workspace of its own that shares DVC's cache: a stage that an ablation does not touch comes from there and is not
run again. The workspace that this is called in stays as it is. What was finished when a run was killed is not made again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import flows.quiet  # noqa: F401  isort: skip
from prefect import flow, tags
from prefect.artifacts import create_markdown_artifact
from prefect.task_runners import ThreadPoolTaskRunner

from avatar_core.errors import UserError
from flows.ablation_table import Found, read_found, write_table
from flows.errors import StageFailed, StageRefused
from flows.pipeline import WIDTH, interrupts, look, run_name, settle, submit_stages
from flows.server import server_for_a_run
from flows.slots import Slots, this_machine
from flows.workspaces import workspace_of
from stages.params import PARAMS, Params, load_params

FULL, UNTIL = "full", "evaluate"
# Of every ablation: a table of ours needs no other row.
LEFT_OUT = {"baseline.steps": 0, "evaluate.video_diffusion": False}
_UNHEARD = (
    "the embedding shapes nothing here; with it: --also aligned:embed.aligned.enabled=true (docs/paper.md)"
)


def papers_ablations(params: Params) -> dict[str, dict[str, Any] | str]:
    """The six of the paper: what to change in params.yaml, or why these parameters cannot express it."""
    teachers = [name for name, weight in params.teacher.backends.items() if weight > 0]
    one: dict[str, Any] | str = (
        f"one teacher ({teachers[0]}) makes all clips; with keyed: 0.3 beside it in teacher.backends it can"
    )
    if len(teachers) > 1:
        one = {"teacher.backends": {teachers[0]: 1.0}}
    aligned = params.embed.aligned.enabled
    return {
        "embedding": {"embed.aligned.enabled": False} if aligned else _UNHEARD,
        "patch": {"embed.contrastive.patch_weight": 0.0} if aligned else _UNHEARD,
        "refiner": {"generator.model.refiner.enabled": False},
        "hybrid": one,
        "vsd": {"distill.weights.vsd": 0.0},
        "trajectory": {"distill.weights.trajectory": 0.0},
    }


@flow(name="audioavatar-ablate", flow_run_name="{name}")
def ablate(
    ablations: dict[str, dict[str, Any]],
    root: str = ".",
    out: str = "ablations",
    parallel: int | None = None,
    name: str = "ablate",
) -> dict[str, dict[str, float]]:
    """Run the full pipeline and `ablations`, {name: {"distill.weights.vsd": 0}}; {run: its numbers}, also as a table in `out`.

    Raises UserError for changes that params.yaml cannot have, before any stage runs; StageFailed when a run did not end well: the
    table then has the others.
    """
    slots, failed = Slots(this_machine(), parallel), []
    found: dict[str, Found] = {}
    runs = {FULL: {}, **{run: {**LEFT_OUT, **changes} for run, changes in ablations.items()}}
    workspaces = {run: workspace_of(Path(root), run, changes, print) for run, changes in runs.items()}
    # the full run first: what it makes, the others share
    for together in ([FULL], list(ablations)):
        futures = {}
        for run in together:
            stale = look(workspaces[run], [UNTIL])[1]
            print(f"[{run}] to make or restore: {', '.join(stale) or 'nothing'}", flush=True)
            futures[run] = submit_stages(str(workspaces[run]), stale, slots, f"{run}: {{}}")
        for run, stages in futures.items():
            try:
                settle(stages)
                found[run] = read_found(workspaces[run], UNTIL)
            except StageFailed as error:
                failed.append(type(error)(f"{run}: {error}"))
        if failed and together == [FULL]:
            break
    if FULL in found:
        table = write_table(Path(out), found[FULL], {r: n for r, n in found.items() if r != FULL})
        create_markdown_artifact(table, "ablations", f"ablations of {Path(root).resolve().name}")
    if failed:
        kind = StageRefused if all(isinstance(f, StageRefused) for f in failed) else StageFailed
        raise kind("; ".join(str(f) for f in failed))
    return {run: dict(of.numbers) for run, of in found.items()}


def chosen(names: list[str], also: list[str], params: Params) -> dict[str, dict[str, Any]]:
    """The ablations asked for by name (all that can be run, if none is) and those spelled out, NAME:KEY=VALUE[,KEY=VALUE].

    Raises UserError for one that these parameters cannot express, or that is not spelled so.
    """
    known = papers_ablations(params)
    own = dict(_spelled(text) for text in also)
    wanted = names or ([] if own else [n for n, changes in known.items() if not isinstance(changes, str)])
    picked: dict[str, dict[str, Any]] = {}
    for name in wanted:
        changes = known.get(name)
        if changes is None:
            raise UserError(f"ablation: expected one of {', '.join(known)}; found {name!r}")
        if isinstance(changes, str):
            raise UserError(
                f"ablation {name}: expected one that these parameters can express, found that {changes}"
            )
        picked[name] = changes
    return {**picked, **own}


def _spelled(text: str) -> tuple[str, dict[str, Any]]:
    name, colon, rest = text.partition(":")
    pairs = [pair.partition("=") for pair in rest.split(",")]
    if not (colon and name.replace("-", "").replace("_", "").isalnum() and name != FULL) or not all(
        key and equals for key, equals, _ in pairs
    ):
        raise UserError(f"--also: expected NAME:KEY=VALUE such as no-l1:distill.weights.l1=0, found {text!r}")
    return name, {key.strip(): yaml.safe_load(value) for key, _, value in pairs}


def listing(known: Mapping[str, dict[str, Any] | str]) -> str:
    """One line an ablation: what it changes, or why it cannot be run."""
    return "\n".join(
        f"{name:11} "
        + (f"not now: {c}" if isinstance(c, str) else ", ".join(f"{k}: {v}" for k, v in c.items()))
        for name, c in known.items()
    )


def command_line() -> argparse.ArgumentParser:
    """The options of `avatar ablate`."""
    parser = argparse.ArgumentParser(prog="avatar ablate", description=ablate.__doc__)
    parser.add_argument(
        "names", nargs="*", help="ablations of the paper, see --list (default: all that can be run)"
    )
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME:KEY=VALUE", help="one of your own"
    )
    parser.add_argument("--list", action="store_true", help="the paper's ablations and what they change")
    parser.add_argument("--out", default="ablations", help="the folder for table.md and table.csv")
    parser.add_argument("--parallel", type=int, help="stages at the same time at most")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    arguments = command_line().parse_args(argv)
    try:
        params = load_params(PARAMS)
        if arguments.list:
            print(listing(papers_ablations(params)))
            return 0
        if arguments.parallel is not None and arguments.parallel < 1:
            raise UserError(f"--parallel: expected 1 or more, found {arguments.parallel}")
        ablations = chosen(arguments.names, arguments.also, params)
        name, marks = run_name("ablate " + " ".join(ablations), Path())
        runner: Any = ThreadPoolTaskRunner(max_workers=WIDTH)
        with interrupts(), server_for_a_run(), tags(*marks):
            ablate.with_options(task_runner=runner)(ablations, ".", arguments.out, arguments.parallel, name)
    except (UserError, StageFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (UserError, StageRefused)) else 1
    except KeyboardInterrupt:
        print("error: interrupted; the stages under way were ended", file=sys.stderr)
        return 130
    print(f"{arguments.out}/table.csv\n\n{(Path(arguments.out) / 'table.md').read_text()}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
