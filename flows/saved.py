"""What a stage had finished when it was told to end, kept in DVC's remote: any machine goes on with it.

It is `data/work/<stage>`, whose folders are named by a fingerprint of parameters, code and inputs: what does not fit is never used.
"""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from flows.exchange import Say, opened

WORK = Path("data/work")


def keep_work(stage: str, revision: str, root: Path, say: Say) -> None:
    """Put what `stage` has saved in the workspace into the remote. Raises StageLost where that fails."""
    folder = root / WORK / stage.replace("@", "-")
    if not folder.is_dir():
        return
    with opened(root) as repo, tempfile.TemporaryDirectory(dir=root / ".dvc" / "tmp") as scratch:
        packed = Path(scratch) / "work.tar"
        with tarfile.open(packed, "w") as tar:
            tar.add(folder, arcname="")
        files, place = _place(repo, stage, revision)
        files.makedirs(files.parent(place), exist_ok=True)
        files.put_file(str(packed), place)
        say(f"{stage}: {packed.stat().st_size / 1e6:.1f} MB of unfinished work are in the remote")


def take_work(stage: str, revision: str, root: Path, say: Say) -> None:
    """Lay out what another machine had saved of `stage`, beside what this one has. Raises StageLost where the remote fails."""
    with opened(root) as repo, tempfile.TemporaryDirectory(dir=root / ".dvc" / "tmp") as scratch:
        files, place = _place(repo, stage, revision)
        if not files.exists(place):
            return
        packed, folder = Path(scratch) / "work.tar", root / WORK / stage.replace("@", "-")
        files.get_file(place, str(packed))
        unpacked = Path(scratch) / "work"
        with tarfile.open(packed) as tar:
            tar.extractall(unpacked, filter="data")
        for path in (p for p in sorted(unpacked.rglob("*")) if p.is_file()):
            target = folder / path.relative_to(unpacked)
            if not target.exists():  # files here are whole, and of the same names the same
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
        say(f"{stage}: goes on with the unfinished work of another machine")


def drop_work(stage: str, revision: str, root: Path) -> None:
    """Remove what is kept of `stage`, which has ended. Raises StageLost where the remote fails."""
    with opened(root) as repo:
        files, place = _place(repo, stage, revision)
        if files.exists(place):
            files.rm_file(place)


def _place(repo: Repo, stage: str, revision: str) -> tuple[Any, str]:
    remote = repo.cloud.get_remote()
    name = stage.replace("@", "-") + ".tar"
    return remote.fs, remote.fs.join(remote.path, "work", revision, name)
