"""An S3 remote between two workers, on moto's server; where the extra `cluster` and moto are installed."""

import json
import urllib.request

import fsspec
import pytest

from flows.clone import run_in_clone, url_of
from flows.errors import StageLost
from flows.remote import collect
from flows.speak_job import Job, Speaking, _made_of, missing
from tests.flows.parts import commit, dvc_project, git

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
def endpoint(s3, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr("flows.exchange.PATIENCE", (1.0,))
    return s3


@pytest.fixture
def origin(tmp_path, endpoint):
    stages = STAGES.format(log=tmp_path / "log.txt")
    return dvc_project(tmp_path, stages, "s3://audioavatar/dvc", endpoint[0])


def test_stages_run_once_over_an_s3_remote_and_wait_out_its_absence(origin, endpoint, tmp_path):
    revision = git(origin, "rev-parse", "HEAD")
    run_in_clone(str(origin), revision, "make", tmp_path / "one", print)
    run_in_clone(str(origin), revision, "copy", tmp_path / "two", print)
    collect(origin)
    assert (tmp_path / "log.txt").read_text().split() == ["make", "copy"]
    assert (origin / "b/3.txt").read_text() == "hello\n"
    link = url_of(tmp_path / "two/a.txt", tmp_path / "two")
    assert link.startswith(f"{endpoint[0]}/audioavatar/dvc/files/md5/")
    assert urllib.request.urlopen(link, timeout=20).read() == b"hello\n"  # as a browser asks for it
    endpoint[1].kill()  # the remote is gone: what failed may pass, and is to be tried again
    endpoint[1].wait()
    (origin / "input.txt").write_text("again\n")
    with pytest.raises(StageLost):
        run_in_clone(str(origin), commit(origin), "make", tmp_path / "one", print)


def test_videos_on_s3_are_known_by_their_records(endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint[0])
    files = fsspec.filesystem("s3", endpoint_url=endpoint[0])
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
