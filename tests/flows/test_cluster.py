"""A real Prefect server, real process workers, a small DVC project: what happens when parts of it die.

Minutes of waiting, little work: `make test-cluster`, not part of `make test`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PYTHON = sys.executable
STAGES = """
stages:
  make:
    cmd: "echo make >> {log}; cat input.txt > a.txt"
    deps: [input.txt]
    outs: [a.txt]
  copy:
    matrix: {{ shard: [0, 1] }}
    cmd: "echo copy${{item.shard}} >> {log}; sleep {seconds}; cp a.txt b${{item.shard}}.txt; echo done${{item.shard}} >> {log}"
    deps: [a.txt]
    outs: ["b${{item.shard}}.txt"]
  join:
    cmd: "{join}"
    deps: [b0.txt, b1.txt]
    outs: [c.txt]
"""
JOIN = "cat b0.txt b1.txt > c.txt"
pytestmark = pytest.mark.cluster


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def until(ready, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds} s")


class Cluster:
    """A server, and what is started against it."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(folder / "prefect"),
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "AUDIOAVATAR_ROOT": str(ROOT),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        self.start(
            "server", BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)
        )
        until(self.healthy, 180, "server")
        for pool in ("audioavatar-cpu", "audioavatar-gpu"):
            self.run(BIN / "prefect", "work-pool", "create", pool, "--type", "process")
        self.run(
            BIN / "prefect",
            "deploy",
            "--prefect-file",
            "deploy/prefect.yaml",
            "--all",
            without="AUDIOAVATAR_ROOT",
        )

    def healthy(self):
        try:
            return urllib.request.urlopen(self.api + "/health", timeout=2).read() == b"true"
        except OSError:
            return False

    def start(self, name, *command, home=None, cwd=ROOT):
        environment = self.environment | ({"HOME": str(home)} if home else {})
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [str(c) for c in command],
                cwd=cwd,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def run(self, *command, without=""):
        environment = {k: v for k, v in self.environment.items() if k != without}
        done = subprocess.run(
            [str(c) for c in command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def worker(self, name):
        home = self.folder / name
        home.mkdir()
        return self.start(
            name, BIN / "prefect", "worker", "start", "--pool", "audioavatar-cpu", "--limit", "1", home=home
        )

    def coordinator(self, name, origin, revision):
        command = [PYTHON, "-m", "flows.remote", "--repository", origin, "--revision", revision]
        return self.start(name, *command, cwd=origin)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def runs(self):
        body = json.dumps({"flows": {"name": {"any_": ["audioavatar-worker"]}}}).encode()
        request = urllib.request.Request(
            self.api + "/flow_runs/filter", body, {"Content-Type": "application/json"}
        )
        return json.loads(urllib.request.urlopen(request, timeout=10).read())

    def lines(self):
        body = json.dumps({"limit": 200}).encode()
        request = urllib.request.Request(
            self.api + "/logs/filter", body, {"Content-Type": "application/json"}
        )
        return [row["message"] for row in json.loads(urllib.request.urlopen(request, timeout=10).read())]

    def close(self):
        for process in self.started:
            kill_tree(process.pid)


def kill_tree(pid):
    """kill -9 a process, its children, and theirs, whatever sessions they have made."""
    import psutil

    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.close()


def project(folder, seconds=1, join=JOIN):
    root = folder / "origin"
    root.mkdir()
    git(root, "init", "-q", ".")
    dvc = [PYTHON, "-m", "dvc"]
    subprocess.run([*dvc, "init", "-q"], cwd=root, check=True)
    subprocess.run(
        [*dvc, "remote", "add", "-q", "-d", "shared", str(folder / "remote")], cwd=root, check=True
    )
    (root / "input.txt").write_text("hello\n")
    (root / "dvc.yaml").write_text(STAGES.format(log=folder / "log.txt", seconds=seconds, join=join))
    (root / ".gitignore").write_text("*.txt\n!input.txt\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root, git(root, "rev-parse", "HEAD")


def words(folder):
    path = folder / "log.txt"
    return sorted(path.read_text().split()) if path.is_file() else []


ONCE = ["copy0", "copy1", "done0", "done1", "make"]


def test_a_run_spreads_over_workers_and_a_dead_one_costs_its_stage(cluster, tmp_path):
    origin, revision = project(tmp_path, seconds=25)
    lost, _ = cluster.worker("lost"), cluster.worker("other")
    first = cluster.coordinator("first", origin, revision)
    # both shards are under way, on different workers
    until(lambda: {"copy0", "copy1"} <= set(words(tmp_path)), 180, "both shards")
    assert (tmp_path / "lost/.cache/audioavatar/clones").is_dir()
    # The coordinator dies and is started again: it joins what is running.
    kill_tree(first.pid)
    again = cluster.coordinator("again", origin, revision)
    time.sleep(8)
    kill_tree(lost.pid)
    again.wait(timeout=400)
    assert again.returncode == 0, cluster.log("again")
    found = words(tmp_path)
    assert found.count("make") == 1 and found.count("done0") == 1 and found.count("done1") == 1
    assert found.count("copy0") + found.count("copy1") == 3  # the dead worker's once more, nothing else
    assert (origin / "c.txt").read_text() == "hello\n" * 2
    states = sorted(run["state"]["name"] for run in cluster.runs())
    assert states.count("Crashed") == 1 and states.count("Completed") == len(states) - 1
    assert any(
        "Running stage 'join'" in line for line in cluster.lines()
    )  # a stage's own lines reach Prefect


def test_a_refused_input_is_tried_once_and_ends_with_2(cluster, tmp_path):
    origin, revision = project(
        tmp_path, join="echo 'error: join: bad input'; echo join >> ../log.txt; exit 2"
    )
    cluster.worker("one")
    coordinator = cluster.coordinator("coordinator", origin, revision)
    assert coordinator.wait(timeout=300) == 2
    last = cluster.log("coordinator").strip().splitlines()[-1]
    assert last.startswith("error: ") and last.endswith("join: bad input"), last
    assert [run["state"]["name"] for run in cluster.runs()].count("Refused") == 1
    assert len(cluster.runs()) == 4


def test_an_interrupt_ends_the_coordinator_and_its_stages(cluster, tmp_path):
    origin, revision = project(tmp_path, seconds=60)
    cluster.worker("one")
    coordinator = cluster.coordinator("coordinator", origin, revision)
    until(lambda: "copy0" in words(tmp_path) or "copy1" in words(tmp_path), 180, "a shard")
    os.kill(coordinator.pid, signal.SIGINT)
    assert coordinator.wait(timeout=60) == 130
    until(
        lambda: all(
            run["state"]["name"] == "Cancelled" for run in cluster.runs() if run["name"][:4] == "copy"
        ),
        90,
        "end",
    )
    time.sleep(60)
    assert not {"done0", "done1"} & set(words(tmp_path))


def test_a_checkout_elsewhere_is_refused(cluster, tmp_path):
    origin, revision = project(tmp_path)
    (origin / "input.txt").write_text("changed\n")
    git(origin, "commit", "-q", "-a", "-m", "on")
    coordinator = cluster.coordinator("coordinator", origin, revision)
    assert coordinator.wait(timeout=60) == 2
    assert "--revision: expected this checkout's commit" in cluster.log("coordinator")
