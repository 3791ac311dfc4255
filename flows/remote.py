"""Several machines: a coordinator sends each stage to a pool of workers; every worker runs it in a clone of its own.

What travels is DVC's run cache, through its remote: a worker restores the upstream stages from there, runs its stage and pushes;
at the end the coordinator's `dvc repro --pull` takes everything and runs nothing. Prefect's server knows what is under way: a
coordinator that starts anew, or a second one, joins the run of a stage that another has sent. A worker that falls silent is given
up and its stage sent again. `deploy/prefect.yaml` deploys `worker` to a pool of machines; docs/cluster.md has the commands.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import flows.quiet  # noqa: F401  isort: skip
from prefect import Task, flow, get_client, tags, task
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
from flows.artifacts import show_stage
from flows.clone import CLONES, call, free_clone, run_in_clone, take_from_remote, url_of
from flows.dvc import DVC, StageFailed, StageLost, StagePreempted, StageRefused, stage_graph
from flows.needs import needs_of
from flows.pipeline import PREEMPTIONS, WIDTH, interrupts, run_name, settle
from flows.processes import STOP
from stages.params import PARAMS, load_params

# States of a worker's run by how its stage ended. Any other end that is no success may not be met again: the stage is sent again.
KINDS = {"Refused": StageRefused, "Broken": StageFailed, "Preempted": StagePreempted}
RETRIES, RETRY_DELAY = 2, 10.0
POLL = 2.0  # seconds between looks at a run
HEARTBEAT, SILENCE = "prefect.flow-run.heartbeat", 100  # seconds without one after which a worker is given up
ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


@flow(
    name="audioavatar-worker",
    flow_run_name="{stage} {revision:.7}",
    log_prints=True,
)
def worker(repository: str, revision: str, stage: str, clones: str = str(CLONES)) -> State[None] | None:
    """One stage on this machine. How it ended, where that matters to the coordinator, is the name of a state."""
    try:
        with free_clone(repository, Path(clones)) as workspace:
            # looked up now: Prefect puts its own `print` in place while a flow runs
            def say(line: str) -> None:
                print(line)

            start = time.monotonic()
            run_in_clone(repository, revision, stage, workspace, say)
            said = f"{time.monotonic() - start:.0f} s"
            show_stage(stage, workspace, said, lambda path: url_of(path, workspace), say)
    except StageFailed as failed:
        for name, kind in KINDS.items():
            if type(failed) is kind:
                return Failed(name=name, message=str(failed))
        raise
    return None


def worth_retrying(task: Task[..., None], task_run: TaskRun, state: State) -> bool:
    """Prefect's retry condition: what another worker may not meet."""
    return not STOP.is_set() and isinstance(state.result(raise_on_failure=False), StageLost)


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY,
    retry_condition_fn=worth_retrying,
)
def dispatch(deployment: str, repository: str, revision: str, stage: str) -> None:
    """Send one stage to its pool, or join the run of it that is under way, and wait; a preempted one goes out again.

    Raises StageRefused, StageFailed, StageLost.
    """
    with get_client(sync_client=True) as client:
        for _ in range(PREEMPTIONS):
            run = wait_for(client, send(client, deployment, repository, revision, stage), stage)
            assert run.state is not None
            if run.state.is_completed():
                return
            if run.state.name != "Preempted":
                kind = KINDS.get(run.state.name or "", StageLost)
                raise kind(run.state.message or f"{stage}: {run.state.name}")
    raise StageFailed(f"{stage}: expected an end, found it told to end {PREEMPTIONS} times")


def wait_for(client: SyncPrefectClient, run: FlowRun, stage: str) -> FlowRun:
    """Wait for the end of a run, with a line whenever its state changes. Raises StageLost when this run is interrupted."""
    start, said = time.monotonic(), ""
    while not (run.state and run.state.is_final()):
        if STOP.wait(POLL):
            raise StageLost(f"{stage}: interrupted")
        run = client.read_flow_run(run.id)
        if run.state and run.state.name != said:
            said = run.state.name or ""
            print(f"[{stage}] {said.lower()}, {time.monotonic() - start:.0f} s", flush=True)
    return run


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
            expect={HEARTBEAT, *(f"prefect.flow-run.{name}" for name in (*ENDS, *KINDS))},
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
        known: Any = Automation.read(name=lost.name)
    except ValueError:
        lost.create()  # pyright: ignore[reportUnusedCoroutine]
        return
    if known.trigger != lost.trigger:  # of an older version of this project
        known.trigger, known.actions = lost.trigger, lost.actions
        known.update()


@flow(name="audioavatar-cluster", flow_run_name="cluster {revision:.7}")
def coordinate(repository: str, revision: str, cpu: str = "cpu", gpu: str = "gpu", root: str = ".") -> None:
    """All stages over the pools in the order of DVC's graph, then everything into the workspace `root`.

    `cpu`, `gpu`: the deployments of `worker` for stages that need no GPU and for those that do. Raises StageRefused when all that
    failed was refused input, else StageFailed; what depends on a failed stage has not run.
    """
    params = load_params(Path(root) / PARAMS) if (Path(root) / PARAMS).is_file() else None
    futures: dict[str, PrefectFuture] = {}
    for stage, needs in stage_graph(Path(root)).items():
        kind = "gpu" if needs_of(stage, params).gpu else "cpu"
        one = dispatch.with_options(tags={kind, f"stage:{stage.split('@')[0]}"})
        upstream = [futures[n] for n in sorted(needs)]
        deployment = f"{worker.name}/{gpu if kind == 'gpu' else cpu}"
        futures[stage] = one.submit(deployment, repository, revision, stage, wait_for=upstream)  # pyright: ignore[reportCallIssue]
    settle(futures)
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


def main(argv: list[str] | None = None) -> int:
    """Command line of the coordinator; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.remote", description=coordinate.__doc__)
    parser.add_argument("--repository", required=True, help="what workers clone: a git URL or a shared path")
    parser.add_argument(
        "--revision",
        required=True,
        help="the commit, params.yaml with its profile included; checked out here",
    )
    for kind in ("cpu", "gpu"):
        parser.add_argument(
            f"--{kind}", default=kind, help=f"the deployment in deploy/prefect.yaml for {kind.upper()} stages"
        )
    arguments = parser.parse_args(argv)
    revision, targets = "", (f"{worker.name}/{arguments.cpu}", f"{worker.name}/{arguments.gpu}")
    try:
        with interrupts():
            revision = check_checkout(Path(), arguments.revision)
            check_deployments(targets)
            watch_for_lost_workers()
            runner: Any = ThreadPoolTaskRunner(max_workers=WIDTH)
            name, marks = run_name("cluster", Path())
            with tags(*marks, f"coordinates:{revision}"):
                coordinate.with_options(task_runner=runner, flow_run_name=f"{name} {revision:.7}")(
                    arguments.repository, revision, arguments.cpu, arguments.gpu
                )
    except (UserError, StageFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (UserError, StageRefused)) else 1
    except KeyboardInterrupt:
        with get_client(sync_client=True) as client:
            ended = sum(cancel(client, target, revision) for target in targets) if revision else 0
        print(f"error: interrupted; {ended} runs on workers are being ended", file=sys.stderr)
        return 130
    return 0


def check_deployments(names: Iterable[str]) -> None:
    """Raises UserError unless the server has these flow/deployments."""
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                client.read_deployment_by_name(name)
            except ObjectNotFound:
                raise UserError(f"deployment: expected one of the server's, found {name}") from None


if __name__ == "__main__":
    sys.exit(main())
