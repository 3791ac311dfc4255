"""Several machines: a coordinator sends each stage to a pool of workers; every worker runs it in a clone of its own.

What travels are outputs and DVC's run cache, through its remote (`flows.exchange`): a worker takes the upstream stages from
there, runs its stage and gives it to the others; at the end the coordinator takes everything and runs nothing.
`deploy/prefect.yaml` deploys `worker` to pools of machines; docs/cluster.md has the commands.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import flows.quiet  # noqa: F401  isort: skip
from prefect import flow, get_client, tags
from prefect.futures import PrefectFuture
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from avatar_core.errors import UserError
from flows.artifacts import show_stage, tag_machine
from flows.clone import CLONES, free_clone, run_in_clone, url_of
from flows.dispatch import cancel, check_deployments, dispatch, to_its_end, watch_for_lost_workers
from flows.errors import StageFailed, StageRefused
from flows.exchange import patiently, take_all
from flows.needs import needs_of
from flows.pipeline import WIDTH, interrupts, run_name, settle
from flows.repro import stage_graph
from flows.saved import keep_work
from stages.params import PARAMS, load_params


@flow(
    name="audioavatar-worker",
    flow_run_name="{stage} {revision:.7}",
    log_prints=True,
)
def worker(repository: str, revision: str, stage: str, clones: str = str(CLONES)) -> State[None] | None:
    """One stage on this machine. How it ended, where that matters to the coordinator, is the name of a state."""

    # looked up now: Prefect puts its own `print` in place while a flow runs
    def say(line: str) -> None:
        print(line)

    with ExitStack() as held:
        workspace: Path | None = None

        def work() -> None:
            nonlocal workspace
            tag_machine(say)
            workspace = held.enter_context(free_clone(repository, Path(clones)))
            start = time.monotonic()
            run_in_clone(repository, revision, stage, workspace, say)
            said, place = f"{time.monotonic() - start:.0f} s", workspace
            show_stage(stage, place, said, lambda path: url_of(path, place), say)

        def keep() -> None:
            if workspace and (workspace / ".dvc").is_dir():
                keep_work(stage, revision, workspace, say)

        return to_its_end(work, keep)


@flow(name="audioavatar-cluster", flow_run_name="cluster {revision:.7}")
def coordinate(repository: str, revision: str, cpu: str = "cpu", gpu: str = "gpu", root: str = ".") -> None:
    """All stages over the pools in the order of DVC's graph, then everything into the workspace `root`.

    `cpu`, `gpu`: the deployments of `worker` for stages that need no GPU and for those that do. Raises StageRefused when all that
    failed was refused input, else StageFailed; what depends on a failed stage has not run.
    """
    params = load_params(Path(root) / PARAMS) if (Path(root) / PARAMS).is_file() else None
    futures: dict[str, PrefectFuture] = {}
    for stage, needs in stage_graph(Path(root)).items():
        kind = "gpu" if needs_of(stage, params).gpus else "cpu"
        one = dispatch.with_options(tags={kind, f"stage:{stage.split('@')[0]}"})
        upstream = [futures[n] for n in sorted(needs)]
        deployment = f"{worker.name}/{gpu if kind == 'gpu' else cpu}"
        parameters = {"repository": repository, "revision": revision, "stage": stage}
        marks = [f"repository:{repository}", f"revision:{revision}", f"stage:{stage}"]
        futures[stage] = one.submit(stage, deployment, parameters, marks, wait_for=upstream)  # pyright: ignore[reportCallIssue]
    settle(futures)
    collect(Path(root))


def collect(root: Path, say: Callable[[str], None] = print) -> None:
    """Bring what the workers made into `root` and its dvc.lock; runs no stage."""
    patiently(lambda: take_all(root), say)


def check_checkout(root: Path, revision: str) -> str:
    """The full commit of `revision`. Raises UserError unless the workspace `root` is at it: its graph is what is run,
    and the results are looked up by its files."""

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
            watch_for_lost_workers(worker.name)
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
            ended = (
                sum(cancel(client, target, f"revision:{revision}") for target in targets) if revision else 0
            )
        print(f"error: interrupted; {ended} runs on workers are being ended", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
