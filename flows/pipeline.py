"""The pipeline as a Prefect flow: one task a stage and shard. DVC decides what must run; Prefect decides when, and again.

    python -m flows.pipeline --profile smoke

No server is needed: without PREFECT_API_URL, Prefect starts one for the length of the run. Prefect caches no task: what is up
to date is DVC's knowledge alone. A stage that refuses its input (exit code 2) is not tried again; any other failure is.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import flows.quiet  # noqa: F401  isort: skip
from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.futures import PrefectFuture
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from avatar_core.errors import UserError
from flows.dvc import StageFailed, StageRefused, run_dvc_stage, stage_graph, stale_stages
from stages.profiles import NAMES, use_profile

RETRIES = 2
RETRY_DELAY = 5.0


def worth_retrying(task: Task[..., str], task_run: TaskRun, state: State) -> bool:
    """Prefect's retry condition: everything but a refused input."""
    return not isinstance(state.result(raise_on_failure=False), StageRefused)


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY,
    retry_condition_fn=worth_retrying,
)
def run_stage(stage: str, root: str) -> str:
    """Run one DVC stage in the workspace `root`; returns "ran" or "up to date"."""
    start = time.monotonic()
    ran = run_dvc_stage(stage, Path(root), lambda line: print(f"[{stage}] {line}", flush=True))
    result = "ran" if ran else "up to date"
    print(f"[{stage}] {result}, {time.monotonic() - start:.1f} s", flush=True)
    return result


@flow(name="audioavatar", log_prints=False, validate_parameters=False)
def pipeline(root: str = ".") -> dict[str, str]:
    """All stages in the order of DVC's graph; independent ones at the same time. Returns {stage: "ran" | "up to date"}.

    What DVC finds unchanged, with all before it, gets no task. Raises StageFailed naming the stages that failed; what depends on
    them has not run.
    """
    graph = stage_graph(Path(root))
    stale = stale_stages(Path(root), graph)
    futures: dict[str, PrefectFuture] = {}
    for stage, needs in graph.items():
        if stage in stale:
            upstream = [futures[n] for n in sorted(needs & stale)]
            futures[stage] = run_stage.submit(stage, root, wait_for=upstream)  # pyright: ignore[reportCallIssue]
    results = {stage: "up to date" for stage in graph if stage not in stale}
    failures: list[BaseException] = []
    for stage, future in futures.items():
        future.wait()
        if future.state.is_completed():
            results[stage] = future.result()
        elif future.state.is_failed():
            failures.append(future.result(raise_on_failure=False))
    if failures:
        kind = StageRefused if all(isinstance(f, StageRefused) for f in failures) else StageFailed
        raise kind("; ".join(str(f) for f in failures))
    return {stage: results[stage] for stage in graph}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline", description="Run the pipeline through Prefect."
    )
    parser.add_argument("--profile", choices=NAMES, help="write this profile into params.yaml first")
    parser.add_argument("--parallel", type=int, default=1, help="stages at the same time (default 1)")
    parser.add_argument("--root", default=".", help="the workspace (default: here)")
    arguments = parser.parse_args(argv)
    try:
        if not (Path(arguments.root) / "dvc.yaml").is_file():
            raise UserError(f"{arguments.root}: expected a folder with dvc.yaml, found none")
        if arguments.parallel < 1:
            raise UserError(f"--parallel: expected 1 or more, found {arguments.parallel}")
        if arguments.profile:
            use_profile(arguments.profile, Path(arguments.root))
        runner: Any = ThreadPoolTaskRunner(max_workers=arguments.parallel)
        results = pipeline.with_options(task_runner=runner)(arguments.root)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StageFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, StageRefused) else 1
    for stage, result in results.items():
        print(f"{stage:14} {result}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
