"""DVC as the flows see it: the graph of stages, and one stage run in a process of its own.

`dvc --wait-for-lock repro --single-item STAGE` is the form that several processes may run at once in one workspace (plain
`dvc repro` locks the paths of all upstream stages and fails at once when they are taken). It neither looks at nor runs upstream
stages, so the order is the flow's business.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path

DVC = [sys.executable, "-m", "dvc"]
_NODE = re.compile(r'^"([^"]+)";?$')
_EDGE = re.compile(r'^"([^"]+)" -> "([^"]+)";?$')


# what DVC tells beginners after every stage
_ADVICE = ("To track the changes", "\tgit add", "To enable auto staging", "\tdvc config", "Use `dvc push`")


class StageFailed(RuntimeError):
    """A stage ended with an error that another try may not meet (a killed worker, a full disk). The message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class StageRefused(StageFailed):
    """A stage refused its input (exit code 2); trying again cannot help."""


def stage_graph(root: Path) -> dict[str, set[str]]:
    """{stage or stage@shard: the stages it needs}, in topological order. Raises StageFailed with DVC's message."""
    result = subprocess.run(
        [*DVC, "dag", "--dot"], cwd=root, env=environment(), capture_output=True, text=True
    )
    if result.returncode:
        raise StageFailed(f"dvc dag: {result.stderr.strip() or result.stdout.strip()}")
    return parse_dot(result.stdout)


def stale_stages(root: Path, graph: dict[str, set[str]]) -> set[str]:
    """The stages that DVC finds changed, and all that come after one. Raises StageFailed with DVC's message."""
    result = subprocess.run(
        [*DVC, "--wait-for-lock", "status", "--json"],
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise StageFailed(f"dvc status: {result.stderr.strip() or result.stdout.strip()}")
    stale = set(json.loads(result.stdout.strip().splitlines()[-1]))
    for stage, needs in graph.items():  # in topological order
        if needs & stale:
            stale.add(stage)
    return stale & set(graph)


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


def run_dvc_stage(stage: str, root: Path, say: Callable[[str], None]) -> bool:
    """Run one stage; every line it prints goes to `say`. Returns whether it had to run (False: nothing had changed).

    Raises StageRefused or StageFailed. Its processes end with it, also when this call is interrupted.
    """
    code, lines = stream([*DVC, "--wait-for-lock", "repro", "--single-item", stage], root, say)
    if code:
        raise failure(stage, code, lines)
    return not any("didn't change, skipping" in line or "cached - skipping" in line for line in lines)


def stream(command: list[str], folder: Path, say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run a command in `folder`; each line goes to `say` as it comes, but for DVC's advice. Returns exit code and all lines.

    The command and its children end when this call is interrupted.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # DVC ignores an interrupt while a stage runs: the whole group must be ended
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line.rstrip())
            if lines[-1] and not lines[-1].startswith(_ADVICE):
                say(lines[-1])
        return process.wait(), lines
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        process.stdout.close()


def failure(what: str, code: int, lines: list[str]) -> StageFailed:
    """The exception for a command that ended with `code` having printed `lines`: StageRefused when a stage refused its input."""
    said = [line for line in lines if line.startswith(("error: ", "fatal: "))]
    said = said or [line for line in lines if line.startswith("ERROR: ")]
    said = said or [line for line in lines if line.strip() and "dvc.org/support" not in line]
    reason = said[-1].removeprefix("error: ") if said else f"exit code {code}"
    kind = StageRefused if any("exited with 2" in line for line in lines) else StageFailed
    return kind(f"{what}: {reason}")


def environment() -> dict[str, str]:
    """The environment of a stage: this interpreter first, so that `python -m stages...` is ours."""
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": here + os.pathsep + os.environ.get("PATH", ""), "DVC_NO_ANALYTICS": "1"}
