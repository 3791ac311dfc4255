"""What tests of the flows are made of: small projects of git and DVC."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
BIN, PYTHON = Path(sys.executable).parent, sys.executable
SLACK = 4
DVC = [PYTHON, "-m", "dvc"]
SHARDED = """
stages:
  make:
    cmd: "echo make >> {log}; cat input.txt > a.txt"
    deps: [input.txt]
    outs: [a.txt]
  copy:
    matrix: {{ shard: [0, 1] }}
    cmd: >-
      echo copy${{item.shard}} >> {log}; until test -e {go}; do sleep 0.2; done;
      cp a.txt b${{item.shard}}.txt; echo done${{item.shard}} >> {log}
    deps: [a.txt]
    outs: ["b${{item.shard}}.txt"]
  join:
    cmd: "{join}"
    deps: [b0.txt, b1.txt]
    outs: [c.txt]
"""
JOIN = "cat b0.txt b1.txt > c.txt"
ONCE = ["copy0", "copy1", "done0", "done1", "make"]


def git(folder, *arguments):
    """What git says."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def dvc(folder, *arguments):
    """What DVC says."""
    done = subprocess.run([*DVC, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(folder, message="start"):
    """Everything; the commit's name."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def dvc_project(folder, stages, remote=None, endpoint=None, **files):
    """The folder `origin` with a dvc.yaml, input.txt and `files`, committed; its remote is `remote`, a folder unless said."""
    root = folder / "origin"
    root.mkdir()
    git(root, "init", "-q", ".")
    dvc(root, "init", "-q")
    add_remote(root, remote or folder / "remote", endpoint)
    for name, text in {"input.txt": "hello\n", **files}.items():
        (root / name).write_text(text)
    (root / "dvc.yaml").write_text(stages)
    (root / ".gitignore").write_text("*.txt\n!input.txt\ndata\n")
    commit(root)
    return root


def add_remote(root, remote, endpoint=None):
    dvc(root, "remote", "add", "-q", "-d", "shared", str(remote))
    if endpoint:
        dvc(root, "remote", "modify", "shared", "endpointurl", endpoint)


def sharded_project(folder, hold=False, join=JOIN, **more):
    """Two shards between two short stages, which say in `log.txt` that they run; `hold`: shards go on after `let_go`."""
    stages = SHARDED.format(log=folder / "log.txt", go=folder / "go", join=join)
    if not hold:
        let_go(folder)
    root = dvc_project(folder, stages, **more)
    return root, git(root, "rev-parse", "HEAD")


def let_go(folder):
    """The shards of a `sharded_project` may end."""
    (folder / "go").touch()


def words(folder):
    """What the stages of a `sharded_project` have said, sorted."""
    path = folder / "log.txt"
    return sorted(path.read_text().split()) if path.is_file() else []


def until(ready, seconds, what):
    """`ready()`, once it is true: within `seconds`, or `SLACK` times that where others use the machine too."""
    end = time.monotonic() + SLACK * seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what}: not within {seconds} s")


def processes(folder, *names):
    """Living processes that work in or below a folder, by name."""
    found = []
    for process in psutil.process_iter(["name", "cwd", "status"]):
        info, place = process.info, Path(process.info["cwd"] or "/")
        if place.is_relative_to(folder) and info["status"] != "zombie" and info["name"].startswith(names):
            found.append(info["name"])
    return found


def no_locks(*places):
    """No lock that stops another process is left in workspaces below these folders: git's, and DVC's on outputs."""
    for place in places:
        for folder in place.rglob(".git"):
            assert not list(folder.rglob("*.lock"))
        for file in place.rglob(".dvc/tmp/rwlock"):
            assert not [x for x in json.loads(file.read_text() or "{}").values() if x.get("write")], file


def packages(folder):
    """The wheels of a package `marker`, 1.0 and 2.0, in `folder`; the variables with which pip finds these alone."""
    folder.mkdir()
    for version in ("1.0", "2.0"):
        about = f"marker-{version}.dist-info"
        files = {
            "marker.py": f"VALUE = {version[0]}\n",
            f"{about}/METADATA": f"Metadata-Version: 2.1\nName: marker\nVersion: {version}\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"])
        with zipfile.ZipFile(folder / f"marker-{version}-py3-none-any.whl", "w") as wheel:
            for name, text in {**files, f"{about}/RECORD": record}.items():
                wheel.writestr(name, text)
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
