"""A second workspace of this checkout: its files as they are now, other parameters, the same DVC cache."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows.clone import LINKS
from flows.code import make_ready
from flows.environments import CACHE
from flows.errors import StageFailed
from flows.processes import stream
from flows.repro import DVC, environment
from stages.profiles import change_params

WORKSPACES = CACHE / "workspaces"
_IDENTITY = ["-c", "user.name=audioavatar", "-c", "user.email=audioavatar@localhost"]


def workspace_of(
    root: Path, name: str, changes: Mapping[str, Any], say: Callable[[str], None], folder: Path = WORKSPACES
) -> Path:
    """The workspace `name` of the checkout `root` under `folder`, made or brought to `root`'s tracked files, committed or not.

    `changes`: {"distill.weights.vsd": 0}, into its params.yaml. Outputs that DVC's cache has are laid out. Raises UserError for
    changes that params.yaml cannot have, StageFailed.
    """
    root = root.resolve()
    workspace = folder / f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}" / name
    # a commit of what is here, which no branch knows of; empty where nothing has changed
    commit = _git(root, *_IDENTITY, "stash", "create") or _git(root, "rev-parse", "HEAD")
    if not (workspace / ".git").is_dir():
        workspace.parent.mkdir(parents=True, exist_ok=True)
        _git(root, "clone", "--quiet", "--shared", "--no-checkout", str(root), str(workspace))
    for left in (workspace / ".git").glob("*.lock"):
        left.unlink()
    _git(workspace, "checkout", "--quiet", "--force", "--detach", commit)
    cache = _dvc(root, "cache", "dir")
    # no second copy of the data where the disk can do without; stages never write into old files
    (workspace / ".dvc" / "config.local").write_text(f'[cache]\n    dir = {cache}\n    type = "{LINKS}"\n')
    change_params(changes, workspace)
    make_ready(workspace)
    # What is missing from the cache is to be made here; whatever else is wrong, the stages will meet it and say so.
    stream([*DVC, "checkout", "--quiet", "--force"], workspace, lambda line: None, environment(workspace))
    say(f"{workspace}: at {commit[:7]}")
    return workspace


def _git(folder: Path, *arguments: str) -> str:
    return _said(["git", *arguments], folder)


def _dvc(folder: Path, *arguments: str) -> str:
    return _said([*DVC, *arguments], folder)


def _said(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or "failed").splitlines()[-1]
        raise StageFailed(f"{' '.join(command[-3:])}: {said}")
    return done.stdout.strip()
