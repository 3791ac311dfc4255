"""What tests of the flows run against: a Prefect server with workers, an S3 server, a line that can be cut, PostgreSQL."""

from __future__ import annotations

import glob
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from avatar_core.procedural.people.anny_export import cache_dir
from tests.flows.parts import BIN, PYTHON, ROOT, SLACK, until


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def family(pid):
    """A process, its children, and theirs, whatever sessions they have made."""
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_tree(pid, number=signal.SIGKILL):
    """A signal, kill -9 unless said, to a process and all below it."""
    for process in family(pid):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            pass


class Cluster:
    """A Prefect server with this checkout's pools and deployments, and what is started against it."""

    def __init__(self, folder, database=None, **variables):
        self.home = self.folder = folder
        self.started, self.port = [], free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "TMPDIR": str(folder),  # where cores are locked: not against what else runs on this machine
            "AUDIOAVATAR_ROOT": str(ROOT),
            "AUDIOAVATAR_CACHE": str(cache_dir()),  # the body model, made once and not by each worker
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": database} if database else {}),
            **variables,
        }
        self.server = self.start_server()
        for pool in ("audioavatar-cpu", "audioavatar-gpu"):
            self.run("work-pool", "create", pool, "--type", "process")
        self.run("deploy", "--prefect-file", "deploy/prefect.yaml", "--all", without="AUDIOAVATAR_ROOT")

    def start_server(self):
        command = ("server", "start", "--host", "127.0.0.1", "--port", self.port)
        process = self.start("server", BIN / "prefect", *command)
        until(self.healthy, 240, "server")
        return process

    def stop_server(self):
        kill_tree(self.server.pid)
        self.server.wait()

    def healthy(self):
        try:
            return urllib.request.urlopen(self.api + "/health", timeout=2).read() == b"true"
        except OSError:
            return False

    def start(self, name, *command, cwd=ROOT, **variables):
        """A process; what it says is in `log(name)`."""
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [str(c) for c in command],
                cwd=cwd,
                env={**self.environment, **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def run(self, *arguments, without=""):
        """`prefect ARGUMENTS`, to its end."""
        done = subprocess.run(
            [str(BIN / "prefect"), *arguments],
            cwd=ROOT,
            env={k: v for k, v in self.environment.items() if k != without},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def worker(self, name, **variables):
        """A worker with a home of its own, where its clones are."""
        (self.folder / name).mkdir(exist_ok=True)
        command = ("worker", "start", "--pool", "audioavatar-cpu", "--limit", "1")
        home = {"HOME": str(self.folder / name), "XDG_CACHE_HOME": str(self.folder / name / ".cache")}
        return self.start(name, BIN / "prefect", *command, **{**home, **variables})

    def coordinator(self, name, origin, revision, cwd=None, **variables):
        command = (PYTHON, "-m", "flows.remote", "--repository", origin, "--revision", revision)
        return self.start(name, *command, cwd=cwd or origin, **variables)

    def finish(self, name, coordinator, seconds, code=0):
        """Wait for the end of a coordinator, which has to be with `code`."""
        try:
            coordinator.wait(timeout=SLACK * seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not within {seconds} s: {self.log(name)}") from None
        assert coordinator.returncode == code, self.log(name)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def ask(self, what, body):
        """What the server's API answers, rows for `.../filter`."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.api}/{what}", json.dumps(body).encode(), headers)
        return json.loads(urllib.request.urlopen(request, timeout=20).read())

    def runs(self, flow="audioavatar-worker"):
        """The runs of a flow whose tags name something of this test's folder."""
        found = self.ask("flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})
        return [run for run in found if any(f"{self.folder}/" in tag for tag in run["tags"])]

    def drop_runs(self):
        """What a test that failed has left is not for the next one's workers."""
        for run in [run for flow in ("audioavatar-worker", "audioavatar-speaker") for run in self.runs(flow)]:
            if run["state"]["type"] in ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING"):
                body = {"state": {"type": "CANCELLED"}, "force": True}
                self.ask(f"flow_runs/{run['id']}/set_state", body)

    def states(self):
        """How the workers' runs stand, sorted."""
        return sorted(run["state"]["name"] for run in self.runs())

    def lines(self):
        """What the workers' runs of this test have said, in order."""
        runs, found = [run["id"] for run in self.runs()], []
        while runs and len(found) % 200 == 0:
            mine = {"logs": {"flow_run_id": {"any_": runs}}, "sort": "TIMESTAMP_ASC", "offset": len(found)}
            if not (rows := self.ask("logs/filter", mine)):
                break
            found += [row["message"] for row in rows]
        return found

    def end(self, but=()):
        """Kill what was started, but for some."""
        for process in [p for p in self.started if p not in but]:
            kill_tree(process.pid)
            process.wait()
            self.started.remove(process)


class Line:
    """A TCP line to a port of this machine that can be cut, mended and made slow; `passed`: bytes sent through it so far."""

    def __init__(self, port):
        self.port, self.passed, self.slow, self.open, self.sockets = port, 0, 0.0, True, set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self):
        self.open = False
        for one in list(self.sockets):
            self._end(one)

    def mend(self):
        self.open = True

    def close(self):
        self.cut()
        self.listener.close()

    def _serve(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if not self.open:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.port))
            self.sockets |= {near, far}
            for source, target, counts in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._carry, args=(source, target, counts), daemon=True).start()

    def _carry(self, source, target, counts):
        try:
            while data := source.recv(16384):
                if counts:
                    self.passed += len(data)
                    time.sleep(self.slow * len(data) / 16384)
                target.sendall(data)
        except OSError:
            pass
        self._end(source)
        self._end(target)

    def _end(self, one):
        self.sockets.discard(one)
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        one.close()


S3 = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}


def needs_s3():
    """Skips a test where what an S3 remote needs is not installed."""
    for name, brought in (
        ("dvc_s3", "dvc-s3, of the extra `cluster`"),
        ("moto", "moto[server]"),
        ("flask", "moto[server]"),
    ):
        pytest.importorskip(
            name, reason=f"needs the package {brought}, which requirements.lock does not hold"
        )


@contextmanager
def s3_server():
    """(address, process) of moto's S3 server with a bucket `audioavatar`. Its keys are those of `S3`."""
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([PYTHON, "-m", "moto.server", "-p", str(port)], **quiet)
    address = f"http://127.0.0.1:{port}"

    def healthy():
        try:
            return urllib.request.urlopen(f"{address}/moto-api/", timeout=2)
        except OSError:
            return None

    try:
        until(healthy, 120, "moto")
        urllib.request.urlopen(urllib.request.Request(f"{address}/audioavatar", method="PUT"), timeout=20)
        yield address, server
    finally:
        server.kill()
        server.wait()


@contextmanager
def postgres():
    """The address of a PostgreSQL server of this machine's own program, in a folder of its own; skips where there is none."""
    found = [shutil.which("initdb"), *sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))]
    programs = next((Path(p).resolve().parent for p in found if p), None)
    if programs is None:
        pytest.skip("needs PostgreSQL's initdb and postgres, Debian's package `postgresql`: found none")
    user = None
    if os.getuid() == 0:  # which PostgreSQL refuses to run as
        user = next((u.pw_name for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody")), None)
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:
        if user:
            shutil.chown(name, user)
        common = {"cwd": name, "user": user, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        data, port = f"{name}/data", free_port()
        init = [programs / "initdb", "-D", data, "-U", "prefect", "--auth=trust", "-E", "UTF8"]
        subprocess.run(init, check=True, **common)
        options = ["-D", data, "-k", name, "-h", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen([programs / "postgres", *options], **common)
        try:

            def answers():
                with socket.socket() as one:
                    return one.connect_ex(("127.0.0.1", port)) == 0

            until(answers, 60, "postgres")
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
