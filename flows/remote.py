"""Several machines: every worker has a clone of its own, runs one stage in it and shares the result through DVC's remote.

Two machines must never share a DVC workspace (its locks are process ids of one machine). What travels is the run cache: a worker
restores the upstream stages from it, runs its stage and pushes; the coordinator fetches and its `dvc repro` runs nothing.
`deploy/prefect.yaml` deploys `worker` to a pool of machines; docs/cluster.md has the commands.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import flows.quiet  # noqa: F401  isort: skip
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.futures import PrefectFuture

from flows.dvc import DVC, StageFailed, StageRefused, environment, stage_graph

WORKSPACE = Path.home() / ".cache" / "audioavatar" / "workspace"


def run_in_clone(
    repository: str, revision: str, stage: str, workspace: Path, say: Callable[[str], None] = print
) -> None:
    """Clone (or update) `repository` at `revision` in `workspace`, restore what `stage` needs, run it, push its outputs.

    Raises StageRefused, StageFailed.
    """
    if not (workspace / ".git").is_dir():
        workspace.parent.mkdir(parents=True, exist_ok=True)
        call(["git", "clone", "--quiet", repository, str(workspace)], Path.cwd(), say)
    call(["git", "fetch", "--quiet", "origin"], workspace, say)
    call(["git", "checkout", "--quiet", "--force", "--detach", revision], workspace, say)
    take_from_remote(workspace, say)
    call([*DVC, "repro", "--pull", stage], workspace, say)
    call([*DVC, "push", "--run-cache"], workspace, say)


def take_from_remote(workspace: Path, say: Callable[[str], None]) -> None:
    """Fetch what others have pushed. Outputs that nobody has made yet are missing, which is not an error here."""
    call([*DVC, "fetch", "--run-cache"], workspace, say, may_fail=True)


def call(command: list[str], folder: Path, say: Callable[[str], None], *, may_fail: bool = False) -> None:
    """Run a command, give its lines to `say`; raises StageRefused when a stage ended with 2, StageFailed otherwise."""
    result = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, errors="replace"
    )
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    for line in lines:
        say(line)
    if result.returncode and not may_fail:
        reason = next(
            (line for line in lines if line.startswith("error: ")), lines[-1] if lines else "no message"
        )
        kind = StageRefused if any("exited with 2" in line for line in lines) else StageFailed
        raise kind(f"{' '.join(command[-3:])}: {reason}")


@flow(name="audioavatar-worker", log_prints=True, validate_parameters=False)
def worker(repository: str, revision: str, stage: str, workspace: str = str(WORKSPACE)) -> None:
    """One stage on this machine."""
    run_in_clone(repository, revision, stage, Path(workspace))


@task(task_run_name="{stage}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=30)
def dispatch(deployment: str, repository: str, revision: str, stage: str) -> None:
    """Send one stage to the pool and wait for it."""
    parameters = {"repository": repository, "revision": revision, "stage": stage}
    run = run_deployment(deployment, parameters=parameters, flow_run_name=stage)
    if run.state is None or not run.state.is_completed():  # pyright: ignore[reportAttributeAccessIssue]
        raise StageFailed(f"{stage}: {run.state}")  # pyright: ignore[reportAttributeAccessIssue]


@flow(name="audioavatar-cluster", log_prints=True, validate_parameters=False)
def coordinate(deployment: str, repository: str, revision: str, root: str = ".") -> None:
    """All stages over the pool in the order of DVC's graph, then everything into the workspace `root`."""
    futures: dict[str, PrefectFuture] = {}
    for stage, needs in stage_graph(Path(root)).items():
        upstream = [futures[n] for n in sorted(needs)]
        futures[stage] = dispatch.submit(deployment, repository, revision, stage, wait_for=upstream)  # pyright: ignore
    for future in futures.values():
        future.result()
    collect(Path(root))


def collect(root: Path, say: Callable[[str], None] = print) -> None:
    """Bring what the workers made into `root`; runs no stage that one of them has run."""
    take_from_remote(root, say)
    call([*DVC, "repro", "--pull"], root, say)


def main() -> int:
    """Command line of the coordinator."""
    parser = argparse.ArgumentParser(prog="python -m flows.remote", description=coordinate.__doc__)
    parser.add_argument(
        "--deployment", default="audioavatar-worker/stages", help="flow/deployment of deploy/prefect.yaml"
    )
    parser.add_argument("--repository", required=True, help="what workers clone: a git URL or a shared path")
    parser.add_argument("--revision", required=True, help="the commit, params.yaml with its profile included")
    arguments = parser.parse_args()
    try:
        coordinate(arguments.deployment, arguments.repository, arguments.revision)
    except StageFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, StageRefused) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
