"""What workers give each other: outputs through DVC's remote, by the run cache's key of a stage's command, inputs and parameters.

A worker lays out what its stage depends on and runs nothing but that stage: what has vanished from the remote is an error here,
where `dvc repro --pull` would quietly make it anew. Outputs go to the remote before the entry that names them: an upload that was
broken off leaves nothing that another worker could take for whole. Of the run cache only the entries asked for travel.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import flows.quiet  # noqa: F401  isort: skip
from dvc.config import NoRemoteError, RemoteConfigError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.stage.cache import _can_hash, _get_cache_hash, _get_stage_hash
from dvc.stage.serialize import to_single_stage_lockfile

from flows.errors import StageFailed, StageLost, lost

T = TypeVar("T")
Say = Callable[[str], None]
PATIENCE = (2.0, 5.0, 10.0, 20.0, 40.0)  # seconds between tries of what an outage let down


def patiently(act: Callable[[], T], say: Say) -> T:
    """`act()`, again after a while where it raises StageLost itself (no subclass); the last time the error goes through."""
    for seconds in PATIENCE:
        try:
            return act()
        except StageLost as passing:
            if type(passing) is not StageLost:
                raise
            say(f"{passing}; again in {seconds:.0f} s")
            time.sleep(seconds)
    return act()


@contextmanager
def opened(root: Path) -> Iterator[Repo]:
    """The DVC project of a workspace, locked. Raises StageFailed where it has no remote, StageLost for what DVC, its remote or the
    disk says."""
    try:
        # DVC reads the names of stages and files from where it is
        with chdir(root), Repo(_wait_for_lock=True) as repo:
            repo.cloud.get_remote_odb().fs.fs.invalidate_cache()  # others write there
            with lock_repo(repo):
                yield repo
    except (NoRemoteError, RemoteConfigError) as error:
        raise StageFailed(f"{root}: {error}") from error
    except Exception as error:
        if not _from_outside(error):
            raise
        raise lost(f"DVC's remote: {type(error).__name__}: {error}") from error


def _from_outside(error: Exception) -> bool:
    # Each kind of remote has exceptions of its own, of packages that need not be installed. Python's own (a wrong name, a wrong
    # type) and ours are no outage, but for those of the operating system.
    own = ("builtins", "flows", "stages", "avatar_core")
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] not in own


def take(stage: str, root: Path) -> bool:
    """Lay out the outputs of all stages before `stage`, and its own; False where nobody has made its own of these inputs.

    Raises StageLost where one of the stages before it is not in the remote.
    """
    with opened(root) as repo:
        *before, last = plan_repro(get_active_graph(repo.index.graph), list(repo.stage.collect(stage)))
        _take(repo, before)
        return _restore(repo, last)


def take_all(root: Path) -> None:
    """Lay out the outputs of all stages and write dvc.lock, running none. Raises StageLost where one is not in the remote."""
    with opened(root) as repo:
        _take(repo, plan_repro(get_active_graph(repo.index.graph), list(repo.stage.collect("dvc.yaml"))))


def put(stage: str, root: Path) -> None:
    """Give the outputs of `stage`, which has run here, to the others. Where somebody was first, theirs count and are laid out:
    another kind of CPU may give other bytes, and what follows is looked up by them."""
    with opened(root) as repo:
        [made] = repo.stage.collect(stage)
        _move(repo.cloud.push, set[Any]().union(*made.get_used_objs().values()))
        if not _can_hash(made):
            return
        theirs = _entry(repo, made)
        if theirs and (_hashes(theirs) == _hashes(made) or _lay_out(repo, made, theirs)):
            return
        remote, local = _run_caches(repo)
        own = _get_cache_hash(to_single_stage_lockfile(made))
        for path in (p for p in _entries(local, made) if Path(p).name == own):
            remote.fs.makedirs(remote.fs.parent(_place(remote, path)), exist_ok=True)
            remote.fs.put_file(path, _place(remote, path))


def _take(repo: Repo, stages: Iterable[Any]) -> None:
    for stage in stages:
        if not _restore(repo, stage):
            raise StageLost(f"{stage.addressing}: expected its outputs in the remote, found them missing")


def _restore(repo: Repo, stage: Any) -> bool:
    if not stage.changed():
        return True
    if not (stage.deps and stage.outs):
        return False  # always to be run
    if not stage.changed_stage() and stage.deps_cached() and all(out.hash_info for out in stage.outs):
        made = repo.stage_cache._create_stage(
            to_single_stage_lockfile(stage), wdir=stage.wdir
        )  # dvc.lock knows it
    else:
        stage.save_deps()
        made = _entry(repo, stage) if _can_hash(stage) else None
    return made is not None and _lay_out(repo, stage, made)


def _entry(repo: Repo, stage: Any) -> Any:
    """The stage as the remote has it, made of the same command, inputs and parameters; None where nobody has. The same for all."""
    remote, local = _run_caches(repo)
    for path in sorted(_entries(remote, stage))[:1]:
        here = _place(local, path)
        local.fs.makedirs(local.fs.parent(here), exist_ok=True)
        remote.fs.get_file(path, here)
        *_, key, value = Path(here).parts
        if found := repo.stage_cache._load_cache(key, value):
            return repo.stage_cache._create_stage(found, wdir=stage.wdir)
    return None


def _hashes(stage: Any) -> list[str]:
    return sorted(f"{out.def_path} {out.hash_info}" for out in stage.outs)


def _lay_out(repo: Repo, stage: Any, made: Any) -> bool:
    """Fetch the outputs of `made` and lay them out as those of `stage`; False where the remote lacks some."""
    _move(repo.cloud.pull, {out.hash_info for out in made.outs})  # of a folder, its list
    if not all(repo.cache.local.exists(out.hash_info.value) for out in made.outs):
        return False
    _move(repo.cloud.pull, set[Any]().union(*made.get_used_objs().values()))
    if not made.outs_cached():
        return False
    # as `dvc repro` does with a stage that it finds in its cache
    stage.remove_outs(ignore_remove=False)
    made.checkout()
    stage.save(run_cache=False)
    stage.commit()
    stage.dump(update_pipeline=False)
    return True


class _Heard(logging.Handler):
    """Keeps the exceptions that DVC only logs."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException | None] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.errors += [record.exc_info[1]] if record.exc_info else []


def _move(transfer: Callable[[set[Any]], Any], objects: set[Any]) -> None:
    # an object that fails on its way is not one that is missing
    logger, heard = logging.getLogger("dvc_data"), _Heard()
    logger.addHandler(heard)
    try:
        failed = transfer(objects).failed
    finally:
        logger.removeHandler(heard)
    if failed:
        raise lost(f"DVC's remote: {len(failed)} of {len(objects)} files failed: {heard.errors[-1:]}")


def _run_caches(repo: Repo) -> tuple[Any, Any]:
    return repo.cloud.get_remote_odb(hash_name="md5-dos2unix"), repo.cache.legacy


def _entries(store: Any, stage: Any) -> list[str]:
    key = _get_stage_hash(stage)
    folder = store.fs.join(store.path, "runs", key[:2], key)
    return list(store.fs.find(folder)) if store.fs.exists(folder) else []


def _place(store: Any, path: str) -> str:
    """Where `store` has an entry that lies at `path` in another one."""
    *_, head, key, value = Path(path).parts
    return store.fs.join(store.path, "runs", head, key, value)
