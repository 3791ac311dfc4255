"""An S3 remote between two workers, on moto's server; where the extra `cluster` and moto are installed."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytest.importorskip("dvc_s3", reason="dvc_s3 is not installed (extra `cluster`)")
pytest.importorskip(
    "moto.server", reason="moto is not installed; no extra has it: pip install 'moto[server]'"
)
pytest.importorskip("flask", reason="flask is not installed; no extra has it: pip install 'moto[server]'")

from flows.clone import run_in_clone, url_of
from flows.errors import StageLost
from flows.remote import collect
from flows.speak_job import Job, Speaking, missing

STAGES = """
stages:
  make:
    cmd: "echo make >> {log}; cat input.txt > a.txt"
    deps: [input.txt]
    outs: [a.txt]
  copy:
    cmd: "echo copy >> {log}; mkdir b; for k in 1 2 3; do cp a.txt b/$k.txt; done"
    deps: [a.txt]
    outs: [b]
"""


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/moto-api/", timeout=2)
            break
        except OSError:
            time.sleep(0.1)
    import boto3

    boto3.client("s3").create_bucket(Bucket="audioavatar")
    yield address, server
    server.kill()
    server.wait()


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def origin(tmp_path, endpoint):
    root = tmp_path / "origin"
    root.mkdir()
    git(root, "init", "-q", ".")
    dvc = [sys.executable, "-m", "dvc"]
    for command in (
        ["init", "-q"],
        ["remote", "add", "-q", "-d", "shared", "s3://audioavatar/dvc"],
        ["remote", "modify", "shared", "endpointurl", endpoint[0]],
    ):
        subprocess.run([*dvc, *command], cwd=root, check=True)
    (root / "input.txt").write_text("hello\n")
    (root / "dvc.yaml").write_text(STAGES.format(log=tmp_path / "log.txt"))
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root


def test_stages_run_once_over_an_s3_remote_and_wait_out_its_absence(origin, endpoint, tmp_path):
    revision = git(origin, "rev-parse", "HEAD")
    run_in_clone(str(origin), revision, "make", tmp_path / "one", print)
    run_in_clone(str(origin), revision, "copy", tmp_path / "two", print)
    collect(origin)
    assert (tmp_path / "log.txt").read_text().split() == ["make", "copy"]
    assert (origin / "b/3.txt").read_text() == "hello\n"
    assert url_of(tmp_path / "two/a.txt", tmp_path / "two").startswith("s3://audioavatar/dvc/files/md5/")
    endpoint[1].kill()  # the remote is gone: what failed may pass, and is to be tried again
    endpoint[1].wait()
    (origin / "input.txt").write_text("again\n")
    git(origin, "commit", "-q", "-a", "-m", "again")
    with pytest.raises(StageLost):
        run_in_clone(str(origin), git(origin, "rev-parse", "HEAD"), "make", tmp_path / "one", print)


def test_videos_on_s3_are_known_by_their_records(endpoint):
    import json

    import fsspec

    from flows.speak_job import _made_of

    files = fsspec.filesystem("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for name in ("p.png", "a.wav", "b.wav", "m.safetensors"):
        files.pipe(f"audioavatar/{name}", name.encode())
    job = Job(
        "s3://audioavatar/p.png",
        ["s3://audioavatar/a.wav", "s3://audioavatar/b.wav"],
        "s3://audioavatar/out",
        Speaking("s3://audioavatar/m.safetensors"),
    )
    assert missing(job) == job.audios
    files.pipe("audioavatar/out/p--a.mp4", b"video")
    files.pipe("audioavatar/out/p--a.mp4.json", json.dumps(_made_of(job, job.audios[0])).encode())
    assert missing(job) == job.audios[1:]
