"""The pipeline as a Prefect flow: one task a stage and shard. DVC decides what must run; Prefect decides when, and again.

    python -m flows.pipeline --profile smoke

Without PREFECT_API_URL a server runs for the length of the run. Prefect caches no task: what is up to date is DVC's knowledge
alone. A stage starts when what it needs of the machine is free (`flows.needs`, `flows.slots`). A stage that was killed, or that the
disk or a lock let down, is tried again; one that refuses its input or ends with an error of its own is not.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flows.quiet  # noqa: F401  isort: skip
from prefect import Task, flow, get_run_logger, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.concurrency.sync import concurrency
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from avatar_core.errors import UserError
from flows.artifacts import Progress, show_stage
from flows.dispatch import PREEMPTIONS
from flows.errors import StageFailed, StageLost, StagePreempted, StageRefused
from flows.needs import longest_way, needs_of
from flows.processes import STOP, interrupt
from flows.repro import (
    changed_stages,
    part_of,
    run_dvc_stage,
    stage_graph,
    stale_stages,
)
from flows.server import server_for_a_run
from flows.slots import GPU_LIMIT, Slots, this_machine
from stages.params import PARAMS, Params, load_params
from stages.profiles import NAMES, active_profile, change_params, use_profile

RETRIES, RETRY_DELAY = 2, 5.0
WIDTH = 256  # stages that wait at the same time; how many run is the machine's business


def worth_retrying(task: Task[..., str], task_run: TaskRun, state: State) -> bool:
    """Prefect's retry condition: what another try may not meet."""
    return not STOP.is_set() and isinstance(state.result(raise_on_failure=False), StageLost)


@task(
    task_run_name="{title}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY,
    retry_condition_fn=worth_retrying,
)
def run_stage(title: str, stage: str, root: str, rank: float, params: Params | None, slots: Slots) -> str:
    """Run one DVC stage in the workspace `root` when there is room for it; returns "ran" or "up to date"."""
    needs, say = needs_of(stage, params), teller(title)
    for _ in range(PREEMPTIONS):
        with (
            slots.take(needs, rank) as card,
            concurrency(GPU_LIMIT if needs.gpus else [], max(1, needs.gpus)),
        ):
            start = time.monotonic()
            try:
                ran = run_dvc_stage(stage, Path(root), Progress(stage, say), needs.hours * 3600, card)
            except StagePreempted as preempted:
                if STOP.is_set():
                    raise
                say(f"{preempted}; waits for its turn")
                continue
        result = "ran" if ran else "up to date"
        say(said := f"{result}, {time.monotonic() - start:.1f} s")
        show_stage(stage, Path(root), said, lambda path: path.resolve().as_uri(), say)
        return result
    raise StageFailed(f"{stage}: expected an end, found it told to end {PREEMPTIONS} times")


@flow(name="audioavatar", flow_run_name="{name}")
def pipeline(
    name: str = "pipeline",
    root: str = ".",
    until: list[str] | None = None,
    parallel: int | None = None,
    stale: dict[str, list[str]] | None = None,
) -> dict[str, str]:
    """The stages that DVC finds stale in the workspace `root`, in the order of its graph; returns {stage: "ran" | "up to date"}.

    `until`: only these stages and what they need. `parallel`: so many at a time at most. `stale`: {stage to run: the stages of this
    run that it waits for}, where the caller has looked already. Raises StageFailed naming the stages that failed; what depends on
    them has not run.
    """
    stale = look(Path(root), until)[1] if stale is None else stale
    return settle(submit_stages(root, stale, Slots(this_machine(), parallel)))


def submit_stages(
    root: str, stale: dict[str, list[str]], slots: Slots, name: str = "{}"
) -> dict[str, PrefectFuture]:
    """A task for each stage of `stale` in the workspace `root`, within a flow; {stage: its future}. `name`: the tasks' names."""
    params = load_params(Path(root) / PARAMS) if (Path(root) / PARAMS).is_file() else None
    way = longest_way({stage: set(needs) for stage, needs in stale.items()}, params)
    futures: dict[str, PrefectFuture] = {}
    for stage, needs in stale.items():
        kind = "gpu" if needs_of(stage, params).gpus else "cpu"
        one = run_stage.with_options(tags={kind, f"stage:{stage.split('@')[0]}"})
        upstream, title = [futures[n] for n in needs], name.format(stage)
        futures[stage] = one.submit(title, stage, root, way[stage], params, slots, wait_for=upstream)  # pyright: ignore[reportCallIssue]
    return futures


def settle(futures: dict[str, PrefectFuture]) -> dict[str, Any]:
    """Wait for all; {name: result}. Raises StageRefused if all that failed was refused input, else StageFailed, naming each."""
    results: dict[str, Any] = {}
    failures: list[BaseException] = []
    for name, future in futures.items():
        future.wait()
        if future.state.is_completed():
            results[name] = future.result()
        elif future.state.is_failed() or future.state.is_crashed():
            failures.append(future.result(raise_on_failure=False))
    if failures:
        kind = StageRefused if all(isinstance(f, StageRefused) for f in failures) else StageFailed
        raise kind("; ".join(str(f) for f in failures))
    return results


def look(root: Path, until: list[str] | None) -> tuple[list[str], dict[str, list[str]]]:
    """(all stages asked for, {stale one: the stale ones it needs}), both in topological order."""
    with ThreadPoolExecutor(2) as both:
        asked, changed = both.submit(stage_graph, root), both.submit(changed_stages, root)
        graph = part_of(asked.result(), until or [])
    stale = stale_stages(graph, changed.result())
    return list(graph), {stage: sorted(graph[stage] & stale) for stage in graph if stage in stale}


def teller(title: str) -> Callable[[str], None]:
    """Within a task's run: a line goes to the terminal, with the title, and to Prefect."""
    logger = get_run_logger()

    def say(line: str) -> None:
        print(f"[{title}] {line}", flush=True)
        logger.info("%s", line)

    return say


def run_name(what: str, root: Path) -> tuple[str, set[str]]:
    """(a name that says what runs, with which parameters and where; tags of the same)."""
    profile = (active_profile(root)[0] or "own") if (root / "params").is_dir() else "none"
    host = socket.gethostname()
    return f"{what} {profile} {root.resolve().name}@{host}", {f"profile:{profile}", f"host:{host}"}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline", description="Run the pipeline through Prefect."
    )
    parser.add_argument("stages", nargs="*", help="only these and what they need (default: all)")
    parser.add_argument("--profile", choices=NAMES, help="write this profile into params.yaml first")
    parser.add_argument("--shards", type=int, help="write run.shards into params.yaml: so many")
    parser.add_argument(
        "--parallel",
        type=int,
        help="stages at the same time at most (default: as cores, memory and GPUs allow)",
    )
    parser.add_argument("--root", default=".", help="the workspace (default: here)")
    arguments = parser.parse_args(argv)
    root = Path(arguments.root)
    try:
        for name, least in (("parallel", 1), ("shards", 1)):
            value = getattr(arguments, name)
            if value is not None and value < least:
                raise UserError(f"--{name}: expected {least} or more, found {value}")
        if not (root / "dvc.yaml").is_file():
            raise UserError(f"{arguments.root}: expected a folder with dvc.yaml, found none")
        if arguments.profile:
            use_profile(arguments.profile, root)
        if arguments.shards:
            change_params({"run.shards": list(range(arguments.shards))}, root)
        with interrupts():
            graph, stale = look(root, arguments.stages)
            ran: dict[str, str] = {}
            if (
                stale or PREFECT_API_URL.value()
            ):  # no server is started to be told that there is nothing to do
                name, marks = run_name(" ".join(arguments.stages) or "pipeline", root)
                runner: Any = ThreadPoolTaskRunner(max_workers=WIDTH)
                with server_for_a_run(), tags(*marks):
                    ran = pipeline.with_options(task_runner=runner)(
                        name, arguments.root, arguments.stages, arguments.parallel, stale
                    )
    except (UserError, StageFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (UserError, StageRefused)) else 1
    except KeyboardInterrupt:
        print("error: interrupted; the stages under way were ended", file=sys.stderr)
        return 130
    for stage in graph:
        print(f"{stage:14} {ran.get(stage, 'up to date')}")
    return 0


class interrupts:
    """Within, an interrupt or a request to end stops what runs, and is then a KeyboardInterrupt."""

    def __enter__(self) -> None:
        self._before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
