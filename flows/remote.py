"""Several machines: a coordinator sends each stage to a pool of workers; every worker runs it in a clone of its own.

What travels is DVC's run cache, through its remote: a worker restores the upstream stages from there, runs its stage and pushes;
at the end the coordinator's `dvc repro --pull` takes everything and runs nothing. Prefect's server knows what is under way: a
coordinator that starts anew, or a second one, joins the run of a stage that another has sent. A worker that falls silent is given
up and its stage sent again. `deploy/prefect.yaml` deploys `worker` to a pool of machines; docs/cluster.md has the commands.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import flows.quiet  # noqa: F401  isort: skip
from prefect import Task, flow, get_client, task
from prefect.automations import Automation
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.states import Cancelling, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from avatar_core.errors import UserError
from flows.clone import CLONES, call, free_clone, run_in_clone, take_from_remote
from flows.dvc import DVC, StageFailed, StageRefused, stage_graph

REFUSED = "Refused"  # name of the state of a worker's run whose stage ended with exit code 2
RETRIES, RETRY_DELAY = 2, 10.0
POLL = 2.0  # seconds between looks at a run
HEARTBEAT, SILENCE = "prefect.flow-run.heartbeat", 100  # seconds without one after which a worker is given up
ENDS = ("Completed", "Failed", "Cancelled", "Crashed")
WIDTH = 256  # stages that wait at the same time
_stop = threading.Event()


@flow(
    name="audioavatar-worker",
    flow_run_name="{stage} {revision:.7}",
    log_prints=True,
    validate_parameters=False,
)
def worker(repository: str, revision: str, stage: str, clones: str = str(CLONES)) -> State[None] | None:
    """One stage on this machine. A refused input is a state of its own: a coordinator does not try it again."""
    try:
        with free_clone(repository, Path(clones)) as workspace:
            # looked up now: Prefect puts its own `print` in place while a flow runs
            run_in_clone(repository, revision, stage, workspace, lambda line: print(line))
    except StageRefused as refused:
        return Failed(name=REFUSED, message=str(refused))
    return None


def worth_retrying(task: Task[..., None], task_run: TaskRun, state: State) -> bool:
    """Prefect's retry condition: everything but a refused input and an interrupt."""
    return not _stop.is_set() and not isinstance(state.result(raise_on_failure=False), StageRefused)


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY,
    retry_condition_fn=worth_retrying,
)
def dispatch(deployment: str, repository: str, revision: str, stage: str) -> None:
    """Send one stage to the pool, or join the run of it that is under way, and wait. Raises StageRefused, StageFailed."""
    start, said = time.monotonic(), ""
    with get_client(sync_client=True) as client:
        run = send(client, deployment, repository, revision, stage)
        while not (run.state and run.state.is_final()):
            if _stop.wait(POLL):
                raise StageFailed(f"{stage}: interrupted")
            run = client.read_flow_run(run.id)
            if run.state and run.state.name != said:
                said = run.state.name or ""
                print(f"[{stage}] {said.lower()}, {time.monotonic() - start:.0f} s", flush=True)
    assert run.state is not None
    if not run.state.is_completed():
        kind = StageRefused if run.state.name == REFUSED else StageFailed
        raise kind(run.state.message or f"{stage}: {run.state.name}")


def send(client: SyncPrefectClient, deployment: str, repository: str, revision: str, stage: str) -> FlowRun:
    """The run of a stage on the pool: the one under way, else a new one.

    The key counts the runs that have ended, so that two coordinators that ask at the same moment get the same run.
    """
    target = client.read_deployment_by_name(deployment)
    tags = [f"revision:{revision}", f"stage:{stage}"]
    before = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"tags": {"all_": tags}}),
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [target.id]}}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
    )
    for run in before:
        if run.state and not run.state.is_final():
            return run
    return client.create_flow_run_from_deployment(
        target.id,
        parameters={"repository": repository, "revision": revision, "stage": stage},
        tags=tags,
        idempotency_key=f"{repository} {revision} {stage} {len(before)}",
    )


def cancel(client: SyncPrefectClient, deployment: str, revision: str) -> int:
    """End all runs of a revision that are queued or under way on the pool; returns how many."""
    target = client.read_deployment_by_name(deployment)
    running = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(
            {
                "tags": {"all_": [f"revision:{revision}"]},
                "state": {"type": {"any_": [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]}},
            }
        ),
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [target.id]}}),
    )
    for run in running:
        client.set_flow_run_state(run.id, Cancelling())
    return len(running)


def watch_for_lost_workers() -> None:
    """Make the server call a worker's run crashed whose heartbeat has stopped (the machine died), if it does not yet.

    A run's process sends a heartbeat every `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` seconds, which deploy/prefect.yaml sets.
    """
    crash = ChangeFlowRunState(
        name=None, force=False, state=StateType.CRASHED, message=f"lost: no heartbeat for {SILENCE} s"
    )
    lost = Automation(
        name="audioavatar: lost workers",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{name}" for name in (*ENDS, REFUSED))},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": worker.name}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE),
        ),
        actions=[crash],
    )
    try:
        Automation.read(name=lost.name)  # pyright: ignore[reportUnusedCoroutine]
    except ValueError:
        lost.create()  # pyright: ignore[reportUnusedCoroutine]


@flow(name="audioavatar-cluster", flow_run_name="cluster {revision:.7}", validate_parameters=False)
def coordinate(deployment: str, repository: str, revision: str, root: str = ".") -> None:
    """All stages over the pool in the order of DVC's graph, then everything into the workspace `root`.

    Raises StageRefused when all that failed was refused input, else StageFailed; what depends on a failed stage has not run.
    """
    futures: dict[str, PrefectFuture] = {}
    for stage, needs in stage_graph(Path(root)).items():
        upstream = [futures[n] for n in sorted(needs)]
        futures[stage] = dispatch.submit(deployment, repository, revision, stage, wait_for=upstream)  # pyright: ignore
    failures: list[BaseException] = []
    for future in futures.values():
        future.wait()
        if future.state.is_failed():
            failures.append(future.result(raise_on_failure=False))
    if failures:
        kind = StageRefused if all(isinstance(f, StageRefused) for f in failures) else StageFailed
        raise kind("; ".join(str(f) for f in failures))
    collect(Path(root))


def collect(root: Path, say: Callable[[str], None] = print) -> None:
    """Bring what the workers made into `root`; runs no stage that one of them has run."""
    take_from_remote(root, say)
    call([*DVC, "repro", "--pull"], root, say)


def check_checkout(root: Path, revision: str) -> str:
    """The full commit of `revision`. Raises UserError unless the workspace `root` is at it: its graph is what is run, and its
    `dvc repro` takes the results, which it would make anew from other files."""

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        if result.returncode:
            said = result.stderr.strip().splitlines()
            raise UserError(f"git {' '.join(arguments)}: {said[-1] if said else 'failed'}")
        return result.stdout.strip()

    wanted, here = git("rev-parse", f"{revision}^{{commit}}"), git("rev-parse", "HEAD")
    if wanted != here:
        raise UserError(f"--revision: expected this checkout's commit {here[:7]}, found {wanted[:7]}")
    if changed := git("status", "--porcelain", "--untracked-files=no"):
        raise UserError(f"{changed.split()[-1]}: expected a checkout without changes, found this one changed")
    return wanted


def _interrupt(number: int, frame: object) -> None:
    # Waiting tasks must hear of it: Prefect waits for them before it lets the interrupt through.
    _stop.set()
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Command line of the coordinator; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.remote", description=coordinate.__doc__)
    parser.add_argument(
        "--deployment", default="audioavatar-worker/stages", help="flow/deployment of deploy/prefect.yaml"
    )
    parser.add_argument("--repository", required=True, help="what workers clone: a git URL or a shared path")
    parser.add_argument(
        "--revision",
        required=True,
        help="the commit, params.yaml with its profile included; checked out here",
    )
    arguments = parser.parse_args(argv)
    deployment, revision = arguments.deployment, ""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, _interrupt)
    try:
        revision = check_checkout(Path(), arguments.revision)
        with get_client(sync_client=True) as client:
            try:
                client.read_deployment_by_name(deployment)
            except ObjectNotFound:
                raise UserError(f"--deployment: expected one of the server's, found {deployment}") from None
        watch_for_lost_workers()
        runner: Any = ThreadPoolTaskRunner(max_workers=WIDTH)
        coordinate.with_options(task_runner=runner)(deployment, arguments.repository, revision)
    except (UserError, StageFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (UserError, StageRefused)) else 1
    except KeyboardInterrupt:
        with get_client(sync_client=True) as client:
            ended = cancel(client, deployment, revision) if revision else 0
        print(f"error: interrupted; {ended} runs on workers are being ended", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
