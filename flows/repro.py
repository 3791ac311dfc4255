"""Stages as DVC runs them: the graph, what is stale in it, and one stage in a process of its own.

`dvc --wait-for-lock repro --single-item STAGE` is the form that several processes may run at once in one workspace (plain
`dvc repro` locks the paths of all upstream stages and fails at once when they are taken). It neither looks at nor runs upstream
stages, so the order is the flow's business.

(Not `flows/dvc.py`: Prefect puts this folder on the path while it loads a flow, and DVC's own package would not be found.)
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

from avatar_core.errors import UserError
from flows.code import code_of
from flows.environments import python_of
from flows.errors import FULL, StageFailed, StageFull, StageLost, StagePreempted, StageRefused
from flows.processes import TIMED_OUT, stream

DVC = [sys.executable, "-m", "dvc"]
_NODE = re.compile(r'^"([^"]+)";?$')
_EDGE = re.compile(r'^"([^"]+)" -> "([^"]+)";?$')
_ENDED = re.compile(r"exited with (-?\d+)")


def stage_graph(root: Path) -> dict[str, set[str]]:
    """{stage or stage@shard: the stages it needs}, in topological order. Raises StageFailed with DVC's message."""
    result = subprocess.run(
        [*DVC, "dag", "--dot"], cwd=root, env=environment(root), capture_output=True, text=True
    )
    if result.returncode:
        raise StageFailed(f"dvc dag: {result.stderr.strip() or result.stdout.strip()}")
    return parse_dot(result.stdout)


def changed_stages(root: Path) -> set[str]:
    """The stages that DVC finds changed. Raises StageFailed with DVC's message."""
    result = subprocess.run(
        [*DVC, "--wait-for-lock", "status", "--json"],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise StageFailed(f"dvc status: {result.stderr.strip() or result.stdout.strip()}")
    return set(json.loads(result.stdout.strip().splitlines()[-1]))


def stale_stages(graph: dict[str, set[str]], changed: set[str]) -> set[str]:
    """Of a graph in topological order: the `changed` stages and all that come after one."""
    stale = set(changed)
    for stage, needs in graph.items():
        if needs & stale:
            stale.add(stage)
    return stale & set(graph)


def part_of(graph: dict[str, set[str]], wanted: Iterable[str]) -> dict[str, set[str]]:
    """The part of the graph that ends with the `wanted` stages (`fit`: all its shards); all of it when none is named.

    Raises UserError for a name that is none of the graph's.
    """
    names = list(wanted)
    kept: set[str] = set()
    for name in names:
        found = {stage for stage in graph if name in (stage, stage.split("@")[0])}
        if not found:
            known = dict.fromkeys(stage.split("@")[0] for stage in graph)
            raise UserError(f"stage: expected one of {', '.join(known)}; found {name!r}")
        kept |= found
    for stage in reversed(graph):
        if stage in kept:
            kept |= graph[stage]
    return {stage: needs for stage, needs in graph.items() if not names or stage in kept}


def parse_dot(text: str) -> dict[str, set[str]]:
    """The output of `dvc dag --dot` -> {stage: upstream stages} in topological order."""
    graph: dict[str, set[str]] = {}
    for line in (line.strip() for line in text.splitlines()):
        if edge := _EDGE.match(line):
            graph.setdefault(edge[1], set())
            graph.setdefault(edge[2], set()).add(edge[1])
        elif node := _NODE.match(line):
            graph.setdefault(node[1], set())
    return {name: graph[name] for name in TopologicalSorter(graph).static_order()}


def run_dvc_stage(
    stage: str,
    root: Path,
    say: Callable[[str], None],
    seconds: float | None = None,
    extra: Mapping[str, str] | None = None,
) -> bool:
    """Run one stage; every line it prints goes to `say`. Returns whether it had to run (False: nothing had changed).

    `seconds`: the time after which it is ended; `extra`: variables of its environment. Raises a StageFailed of the kind that says
    whether to try again. Its processes end with it, also when this call is interrupted or this process killed.
    """
    command = [*DVC, "--wait-for-lock", "repro", "--single-item", stage]
    variables = {**environment(root, python_of(root, say)), **(extra or {})}
    code, lines = stream(command, root, say, variables, seconds)
    if code:
        raise failure(stage, code, lines)
    return not any("didn't change, skipping" in line or "cached - skipping" in line for line in lines)


def failure(what: str, code: int, lines: list[str]) -> StageFailed:
    """The exception for a command that ended with `code` having printed `lines`, among them DVC's word on how its stage ended."""
    said = [line for line in lines if line.startswith(("error: ", "fatal: "))]
    said = said or [line for line in lines if line.startswith("ERROR: ")]
    said = said or [line for line in lines if line.strip() and "dvc.org/support" not in line]
    reason = said[-1].removeprefix("error: ") if said else f"exit code {code}"
    ends = [int(match[1]) for line in lines if (match := _ENDED.search(line))]
    kind = StageFailed
    if code == TIMED_OUT:
        kind = StageFailed
    elif full := [line for line in lines if FULL in line]:
        kind, reason = StageFull, full[-1].removeprefix("error: ")
    elif 2 in ends:
        kind = StageRefused
    elif 75 in ends:
        kind = StagePreempted
    elif not ends or any(end < 0 or end > 128 for end in ends):
        kind = StageLost  # no stage's own end: DVC, git or the remote failed
    return kind(f"{what}: {reason}")


def environment(root: Path, python: Path = Path(sys.executable)) -> dict[str, str]:
    """The environment of a stage in `root`: `python` first, so that `python -m stages...` is that one; the code of `root`."""
    path = str(python.parent) + os.pathsep + os.environ.get("PATH", "")
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", **code_of(root)}
