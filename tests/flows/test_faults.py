"""A run over real workers while its server, its remote, a disk or another machine fails: it ends well, and nothing is made twice.

Minutes of waiting, little work: `make test-cluster`, not part of `make test`.
"""

import subprocess
import time

import pytest

from tests.flows.parts import (
    ONCE,
    ROOT,
    add_remote,
    commit,
    dvc,
    dvc_project,
    git,
    let_go,
    no_locks,
    packages,
    sharded_project,
    until,
    words,
)
from tests.flows.servers import S3, Line, kill_tree

pytestmark = pytest.mark.cluster


def both_shards_run(folder):
    until(lambda: {"copy0", "copy1"} <= set(words(folder)), 300, "both shards")


def finished_as_in_one_workspace(origin, folder):
    """The results are there, dvc.lock is that of a serial run, and another run has nothing to do."""
    assert (origin / "c.txt").read_text() == "hello\n" * 2
    said = words(folder)
    lock = (origin / "dvc.lock").read_bytes()
    (origin / "dvc.lock").unlink()
    dvc(origin, "repro", "--force")
    assert (origin / "dvc.lock").read_bytes() == lock
    assert len(words(folder)) == len(said) + len(ONCE)
    no_locks(folder)


def test_a_server_that_goes_away_and_comes_back(cluster, tmp_path):
    origin, revision = sharded_project(tmp_path, hold=True)
    cluster.worker("one"), cluster.worker("two")
    coordinator = cluster.coordinator("coordinator", origin, revision)
    both_shards_run(tmp_path)
    cluster.stop_server()
    let_go(tmp_path)
    until(lambda: set(ONCE) <= set(words(tmp_path)), 90, "the shards' ends without a server")
    cluster.server = cluster.start_server()
    cluster.finish("coordinator", coordinator, 400)
    assert words(tmp_path) == ONCE
    finished_as_in_one_workspace(origin, tmp_path)


def test_two_coordinators_send_each_stage_once(cluster, tmp_path):
    origin, revision = sharded_project(tmp_path, hold=True)
    cluster.worker("one"), cluster.worker("two")
    git(tmp_path, "clone", "-q", str(origin), "elsewhere")
    places = {"first": origin, "second": tmp_path / "elsewhere"}
    started = {name: cluster.coordinator(name, origin, revision, cwd=place) for name, place in places.items()}
    waits = [f"[copy@{k}] running" for k in (0, 1)]
    until(lambda: all(w in cluster.log(n) for n in places for w in waits), 300, "both wait for both shards")
    let_go(tmp_path)
    for name, coordinator in started.items():
        cluster.finish(name, coordinator, 400)
    assert words(tmp_path) == ONCE and len(cluster.runs()) == 4
    assert (tmp_path / "elsewhere/c.txt").read_text() == "hello\n" * 2
    assert (tmp_path / "elsewhere/dvc.lock").read_bytes() == (origin / "dvc.lock").read_bytes()
    finished_as_in_one_workspace(origin, tmp_path)


@pytest.fixture
def line(s3):
    made = Line(int(s3[0].rsplit(":", 1)[1]))
    yield made
    made.close()


def test_a_remote_that_is_cut_for_20_seconds(line, cluster, tmp_path):
    origin, revision = sharded_project(
        tmp_path, hold=True, remote="s3://audioavatar/dvc", endpoint=line.address
    )
    cluster.worker("one", **S3), cluster.worker("two", **S3)
    coordinator = cluster.coordinator("coordinator", origin, revision, **S3)
    both_shards_run(tmp_path)
    line.cut()
    let_go(tmp_path)
    until(lambda: set(ONCE) <= set(words(tmp_path)), 90, "the shards' ends without a remote")
    time.sleep(20)  # in which both push in vain
    line.mend()
    cluster.finish("coordinator", coordinator, 400)
    assert words(tmp_path) == ONCE and cluster.states() == ["Completed"] * 4
    assert any("again in" in text for text in cluster.lines())
    finished_as_in_one_workspace(origin, tmp_path)


MANY = """
stages:
  make:
    cmd: "echo make >> {log}; cat input.txt > a.txt"
    deps: [input.txt]
    outs: [a.txt]
  spread:
    cmd: "echo spread >> {log}; mkdir -p data/many; for k in $(seq 40); do yes $k | head -c 100000 > data/many/$k; done"
    deps: [a.txt]
    outs: [data/many]
"""


def test_half_an_upload_is_not_taken_for_whole(line, cluster, tmp_path):
    log = tmp_path / "log.txt"
    origin = dvc_project(tmp_path, MANY.format(log=log), "s3://audioavatar/dvc", line.address)
    lost = cluster.worker("lost", **S3)
    coordinator = cluster.coordinator("coordinator", origin, git(origin, "rev-parse", "HEAD"), **S3)
    until(lambda: "make" in words(tmp_path), 240, "the first stage")
    line.slow = 0.2  # 16 KB: the 4 MB of the second stage take a minute
    until(lambda: "spread" in words(tmp_path), 240, "the second stage")
    before = line.passed
    until(lambda: line.passed - before > 1_000_000, 120, "a part of the upload")
    kill_tree(lost.pid)
    line.slow = 0.0
    cluster.worker("other", **S3)
    cluster.finish("coordinator", coordinator, 500)
    assert words(tmp_path) == ["make", "spread", "spread"]  # what was pushed whole is not made again
    assert len(list((origin / "data/many").iterdir())) == 40
    assert sorted(set(cluster.states())) == ["Completed", "Crashed"]
    assert dvc(origin, "status").strip().endswith("up to date.")
    no_locks(origin, tmp_path / "other")


BIG = """
stages:
  make:
    cmd: "echo make >> {log}; cat input.txt > a.txt"
    deps: [input.txt]
    outs: [a.txt]
  big:
    cmd: "head -c 40000000 /dev/zero > data.bin && echo big >> {log}"
    deps: [a.txt]
    outs: [data.bin]
"""


@pytest.fixture
def small_disk(tmp_path):
    """A folder that takes 25 MB, until `grow` is called."""
    place = tmp_path / "small"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=25m", "tmpfs", str(place)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"needs the right to mount a small disk (tmpfs): {made.stderr.decode().strip()}")
    yield lambda: subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_the_reason_given_and_room_mends_it(small_disk, cluster, tmp_path):
    origin = dvc_project(tmp_path, BIG.format(log=tmp_path / "log.txt"))
    revision = git(origin, "rev-parse", "HEAD")
    cluster.worker("small")
    coordinator = cluster.coordinator("full", origin, revision)
    cluster.finish("full", coordinator, 500, code=1)
    assert "No space left on device" in cluster.log("full").strip().splitlines()[-1]
    assert words(tmp_path) == ["make"]
    clones = tmp_path / "small/.cache/audioavatar/clones"
    assert not [p for p in clones.iterdir() if p.is_dir()]  # a clone that filled the disk gives it back
    no_locks(origin)
    small_disk()
    cluster.finish("again", cluster.coordinator("again", origin, revision), 400)
    assert words(tmp_path) == ["big", "make"] and (origin / "data.bin").stat().st_size == 40_000_000


def test_another_lock_file_has_an_environment_of_its_own_where_pip_can_make_it(cluster, tmp_path):
    # this project's code with a small pipeline, at a lock that is not this environment's
    origin = tmp_path / "origin"
    git(tmp_path, "clone", "-q", "--shared", str(ROOT), str(origin))
    (origin / "requirements.lock").write_text("marker==2.0\n")
    (origin / "dvc.yaml").write_text(
        f"stages:\n  make:\n    cmd: echo make >> {tmp_path}/log.txt;"
        ' python -c "import marker; print(marker.VALUE)" > a.txt\n'
        "    deps: [README.md]\n    outs: [a.txt]\n"
    )
    (origin / "dvc.lock").unlink()
    (origin / ".dvc/config").write_text("")
    add_remote(origin, tmp_path / "remote")
    revision = commit(origin)
    cluster.worker("offline", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1")
    coordinator = cluster.coordinator("coordinator", origin, revision)
    until(lambda: "Unfit" in cluster.states(), 240, "a refusal")
    refused = [run["state"]["message"] for run in cluster.runs() if run["state"]["name"] == "Unfit"]
    assert all("requirements.lock: ERROR: No matching distribution found for marker" in x for x in refused)
    cluster.worker("online", **packages(tmp_path / "wheels"))
    cluster.finish("coordinator", coordinator, 600)
    assert words(tmp_path) == ["make"] and (origin / "a.txt").read_text() == "2\n"
    assert set(cluster.states()) == {"Unfit", "Completed"}
    assert len(list((tmp_path / "online/.cache/audioavatar/environments").glob("*/finished"))) == 1
