"""A worker's own clone of the project: one stage runs in it at the run's commit, and what it made is shared through DVC's remote.

Two machines must never share a DVC workspace (its locks are process ids of one machine), nor must two workers of one machine: a
worker takes the first free clone of its repository and holds it by a lock that dies with its process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import flows.quiet  # noqa: F401  isort: skip
from prefect.concurrency.sync import concurrency

from avatar_core.errors import UserError
from flows.artifacts import Progress
from flows.code import make_ready
from flows.environments import CACHE, python_of
from flows.errors import StageFailed, StageFull, StagePreempted
from flows.exchange import patiently, put, take
from flows.needs import Needs, needs_of
from flows.processes import stream
from flows.repro import failure, run_dvc_stage
from flows.saved import drop_work, keep_work, take_work
from flows.slots import GPU_LIMIT, Slots, this_machine
from stages.params import PARAMS, load_params

CLONES = CACHE / "clones"
MOST = 64  # clones of one repository on one machine
WEEK = 7 * 86400  # seconds
LINKS = "reflink,hardlink,copy"  # how a clone's files are those of its cache


@contextmanager
def free_clone(repository: str, folder: Path) -> Iterator[Path]:
    """The first clone of `repository` under `folder` that no living process holds; its place may be empty yet.

    Raises StageFailed when all are held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(repository.encode()).hexdigest()[:12]
    for k in range(MOST):
        workspace = folder / f"{name}-{k}"
        with open(f"{workspace}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            lock.write(f"{os.getpid()} {repository}\n")
            lock.flush()
            yield workspace
            return
    raise StageFailed(f"{folder}: expected a free clone of {repository}, found {MOST} in use")


def run_in_clone(
    repository: str, revision: str, stage: str, workspace: Path, say: Callable[[str], None]
) -> None:
    """Clone (or update) `repository` at `revision` in `workspace`, restore what `stage` needs, run it, push its outputs.

    The caller holds the workspace: what a killed predecessor has left locked is unlocked. Raises StageRefused, StageFailed,
    StagePreempted when the stage was told to end; what it had finished by then is in the remote.
    """
    try:
        patiently(lambda: bring(repository, revision, workspace, say), say)
        make_ready(workspace)
        if patiently(lambda: take(stage, workspace), say):
            say(f"{stage}: made before")
        else:
            _run(stage, revision, workspace, say)
        patiently(lambda: put(stage, workspace), say)
        patiently(lambda: drop_work(stage, revision, workspace), say)
    except StagePreempted:
        keep_work(stage, revision, workspace, say)
        raise
    except StageFull:  # what the clone had is in the remote, or is made again where there is room
        say(f"{workspace}: removed, its disk is full")
        shutil.rmtree(workspace, ignore_errors=True)
        raise


def _run(stage: str, revision: str, workspace: Path, say: Callable[[str], None]) -> None:
    patiently(lambda: take_work(stage, revision, workspace, say), say)
    python_of(workspace, say)  # before it holds cores
    needs = needs_here(stage, workspace)
    with (
        Slots(this_machine(), shared=True).take(needs) as card,
        concurrency(GPU_LIMIT if needs.gpus else [], max(1, needs.gpus)),
    ):
        run_dvc_stage(stage, workspace, Progress(stage, say), needs.hours * 3600, card)


def bring(repository: str, revision: str, workspace: Path, say: Callable[[str], None]) -> None:
    """The clone of `repository` in `workspace`, made if it is not there, at `revision` and without a dead predecessor's locks."""
    if not workspace.is_dir():
        part = workspace.with_name(workspace.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        workspace.parent.mkdir(parents=True, exist_ok=True)
        _git(["clone", "--quiet", "--", repository, str(part)], workspace.parent, say)
        part.rename(workspace)
    for left in [*(workspace / ".git").rglob("*.lock"), *(workspace / ".dvc" / "tmp").glob("rwlock*")]:
        left.unlink()
    _git(["fetch", "--quiet", "origin"], workspace, say)
    _git(["checkout", "--quiet", "--force", "--detach", revision, "--"], workspace, say)
    # what this clone has made counts when it is the remote's
    _git(["clean", "--quiet", "--force", "--", "dvc.lock"], workspace, say)
    # one copy of the data, not two: stages never write into old files
    (workspace / ".dvc" / "config.local").write_text(f'[cache]\n    type = "{LINKS}"\n')


def url_of(path: Path, workspace: Path) -> str:
    """An address under which a browser finds a file of the workspace in DVC's remote: signed for a week where the remote can sign;
    the file itself if there is no remote."""
    from dvc.api import get_url
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        url = get_url(str(path.relative_to(workspace)), repo=str(workspace))
        with Repo(str(workspace)) as repo:
            files = repo.cloud.get_remote().fs.fs
    except DvcException:
        return path.resolve().as_uri()
    try:
        return files.sign(url, expiration=WEEK)
    except NotImplementedError:
        return Path(url).as_uri() if url.startswith("/") else url


def needs_here(stage: str, workspace: Path) -> Needs:
    """The needs of a stage with the workspace's parameters; bad ones are the stage's to refuse."""
    try:
        return needs_of(stage, load_params(workspace / PARAMS) if (workspace / PARAMS).is_file() else None)
    except UserError:
        return Needs()


def _git(arguments: list[str], folder: Path, say: Callable[[str], None]) -> None:
    # not in the environment of the clone's code: what lies there may be of another commit, which this machine cannot run
    code, lines = stream(["git", *arguments], folder, say, os.environ)
    if code:
        raise failure(f"git {arguments[0]}", code, lines)
