"""Work for a pool of machines: a run is sent, joined where it is under way, sent again where its worker was lost.

Prefect's server knows what is under way, so a coordinator that starts anew, or a second one, joins what another has sent. A worker
that falls silent is given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

import flows.quiet  # noqa: F401  isort: skip
import httpx
from prefect import Task, get_client, task
from prefect.automations import Automation
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelling, Failed, State

from avatar_core.errors import UserError
from flows.errors import StageFailed, StageFull, StageLost, StagePreempted, StageRefused, StageUnfit
from flows.processes import STOP

# States of a worker's run by how its stage ended. Any other end that is no success may not be met again: the stage is sent again.
KINDS = {
    "Refused": StageRefused,
    "Broken": StageFailed,
    "Lost": StageLost,
    "Full": StageFull,
    "Preempted": StagePreempted,
    "Unfit": StageUnfit,
}
RETRIES, RETRY_DELAY = 2, 10.0
PREEMPTIONS = 100  # times that one stage may be told to end and goes out again
UNFIT = 10  # machines in a row that cannot run the commit, until it is given up
AWAY = 3600.0  # seconds that the server may be away
POLL = 0.5  # seconds between looks at a run, where few are waited for
WIDTH_ASKED = 8  # runs that are waited for at the same time from which on each is looked at less often: a server has its limits
HEARTBEAT, SILENCE = "prefect.flow-run.heartbeat", 100  # seconds without one after which a worker is given up
_waiting: set[UUID] = set()
ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def to_its_end(work: Callable[[], None], keep: Callable[[], None]) -> State[None] | None:
    """A worker's work; how it ended, where that matters to the coordinator, is the name of a state.

    `keep`: saves what is done when the machine is told to end; when the run is cancelled nothing is saved.
    """
    try:
        work()
    except StageFailed as failed:
        return ended(failed)
    except TerminationSignal:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(flow_run.id)).state
        if state and state.is_cancelling():
            raise
        keep()
        return ended(StagePreempted("told to end"))
    return None


def ended(failed: StageFailed) -> State[None]:
    """The state of a worker's run that tells the coordinator how it ended; raises `failed` where no name tells it."""
    for name, kind in KINDS.items():
        if type(failed) is kind:
            return Failed(name=name, message=str(failed))
    raise failed


def worth_retrying(task: Task[..., None], task_run: TaskRun, state: State) -> bool:
    """Prefect's retry condition: what another worker may not meet."""
    return not STOP.is_set() and isinstance(state.result(raise_on_failure=False), StageLost)


@task(
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAY,
    retry_condition_fn=worth_retrying,
)
def dispatch(name: str, deployment: str, parameters: dict[str, Any], marks: list[str]) -> None:
    """Send one piece of work to its pool, or join the run of it that is under way, and wait; a preempted one goes out again.

    `marks`: the tags that tell this piece of work from all others. Raises StageRefused, StageFailed, StageLost.
    """
    unfit = 0
    with get_client(sync_client=True) as client:
        for _ in range(PREEMPTIONS):
            sent = in_spite_of_outages(lambda: send(client, deployment, parameters, marks), name)
            run = wait_for(client, sent, name)
            assert run.state is not None
            if run.state.is_completed():
                return
            kind, reason = KINDS.get(run.state.name or "", StageLost), run.state.message
            unfit = unfit + 1 if kind is StageUnfit else 0
            if unfit == UNFIT:
                raise StageFailed(f"{name}: {UNFIT} machines cannot run it, the last said: {reason}")
            if kind not in (StagePreempted, StageUnfit):
                raise kind(reason or f"{name}: {run.state.name}")
            if unfit and STOP.wait(RETRY_DELAY):
                raise StageLost(f"{name}: interrupted")
    raise StageFailed(f"{name}: expected an end, found it told to end {PREEMPTIONS} times")


def wait_for(client: SyncPrefectClient, run: FlowRun, name: str) -> FlowRun:
    """Wait for the end of a run, with a line whenever its state changes. Raises StageLost when this run is interrupted."""
    start, said, sent = time.monotonic(), "", run.id
    _waiting.add(run.id)
    try:
        while not (run.state and run.state.is_final()):
            if STOP.wait(POLL * (1 + len(_waiting) / WIDTH_ASKED)):
                raise StageLost(f"{name}: interrupted")
            run = in_spite_of_outages(lambda: client.read_flow_run(sent), name)
            if run.state and run.state.name != said:
                said = run.state.name or ""
                print(f"[{name}] {said.lower()}, {time.monotonic() - start:.0f} s", flush=True)
    finally:
        _waiting.discard(run.id)
    return run


def in_spite_of_outages(ask: Callable[[], FlowRun], name: str) -> FlowRun:
    """What the server answers, asked again while it is away, `AWAY` seconds at most: what workers do goes on without it."""
    start = time.monotonic()
    while True:
        try:
            return ask()
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            passing = not isinstance(error, httpx.HTTPStatusError) or error.response.status_code >= 500
            if not passing or time.monotonic() - start > AWAY:
                raise
            print(f"[{name}] waits for Prefect's server: {type(error).__name__}", flush=True)
            if STOP.wait(RETRY_DELAY):
                raise StageLost(f"{name}: interrupted") from error


def send(client: SyncPrefectClient, deployment: str, parameters: dict[str, Any], marks: list[str]) -> FlowRun:
    """The run with these marks on the pool: the one under way, else a new one.

    The key counts the runs that have ended, so that two coordinators that ask at the same moment get the same run.
    """
    target = client.read_deployment_by_name(deployment)
    before = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"tags": {"all_": marks}}),
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [target.id]}}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
    )
    for run in before:
        if run.state and not run.state.is_final():
            return run
    return client.create_flow_run_from_deployment(
        target.id,
        parameters=parameters,
        tags=marks,
        idempotency_key=" ".join([*marks, str(len(before))]),
    )


def cancel(client: SyncPrefectClient, deployment: str, mark: str) -> int:
    """End all runs with a mark that are queued or under way on the pool; returns how many."""
    target = client.read_deployment_by_name(deployment)
    running = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(
            {
                "tags": {"all_": [mark]},
                "state": {"type": {"any_": [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]}},
            }
        ),
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [target.id]}}),
    )
    for run in running:
        client.set_flow_run_state(run.id, Cancelling())
    return len(running)


def watch_for_lost_workers(flow: str) -> None:
    """Make the server call a run of `flow` crashed whose heartbeat has stopped (the machine died), if it does not yet.

    A run's process sends a heartbeat every `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` seconds, which deploy/prefect.yaml sets.
    """
    crash = ChangeFlowRunState(
        name=None, force=False, state=StateType.CRASHED, message=f"lost: no heartbeat for {SILENCE} s"
    )
    lost = Automation(
        name=f"audioavatar: lost runs of {flow}",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{name}" for name in (*ENDS, *KINDS))},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": flow}
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


def check_deployments(names: Iterable[str]) -> None:
    """Raises UserError unless the server has these flow/deployments."""
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                client.read_deployment_by_name(name)
            except ObjectNotFound:
                raise UserError(f"deployment: expected one of the server's, found {name}") from None
