"""The project's own stages on real workers: the smoke run, a training that moves to another machine, a batch of videos.

Tens of minutes: `make test-cluster`, not part of `make test`.
"""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from flows.remote import collect
from tests.flows.parts import PYTHON, add_remote, commit, dvc, no_locks, until
from tests.flows.servers import S3, Cluster, kill_tree, postgres

ONE_STAGE = """
import sys
from prefect import flow
from flows.dispatch import dispatch

@flow
def send(repository, revision):
    work = {"repository": repository, "revision": revision, "stage": "generator"}
    dispatch("generator", "audioavatar-worker/cpu", work, [f"repository:{repository}/"])

send(*sys.argv[1:])
"""
pytestmark = pytest.mark.cluster


def test_the_smoke_run_on_two_workers_over_postgresql_and_s3(smoke, clone, s3, tmp_path):
    project = clone("cluster")
    used = project.run(PYTHON, "-m", "avatar_core.cli", "profile", "use", "smoke")
    assert used.returncode == 0, used.stderr
    add_remote(project.root, "s3://audioavatar/dvc", s3[0])
    revision = commit(project.root)
    with postgres() as database:
        cluster = Cluster(tmp_path, database, **S3)
        try:
            cluster.worker("one"), cluster.worker("two")
            coordinator = cluster.coordinator("coordinator", project.root, revision)
            cluster.finish("coordinator", coordinator, 3000)
            runs = cluster.ask("flow_runs/filter", {"flows": {"name": {"any_": ["audioavatar-worker"]}}})
            assert {run["state"]["name"] for run in runs} == {"Completed"}
            kept = cluster.ask("artifacts/filter", {})
        finally:
            cluster.end()
    (tmp_path / "artifacts.json").write_text(json.dumps(kept))
    graph = [line for line in dvc(project.root, "stage", "list", "--name-only").splitlines() if line]
    logs = {name: list((tmp_path / name).rglob("data/logs/*.json")) for name in ("one", "two")}
    ran = sorted(path.stem for found in logs.values() for path in found)
    assert ran == sorted(name.replace("@", "-") for name in graph)  # each stage ran, once, on one of both
    assert all(logs.values())
    assert not list((project.root / "data/logs").glob("*.json"))  # the coordinator ran none
    serial = (smoke.root / "dvc.lock").read_bytes()
    assert (project.root / "dvc.lock").read_bytes() == serial
    no_locks(project.root, tmp_path)
    names = {artifact["key"] for artifact in kept}
    assert {"fit-0-summary", "fit-0-metrics", "fit-0-sheet", "evaluate-summary"} <= names


@pytest.fixture
def shorter(smoke, tmp_path):
    """The smoke run up to `generator`, which now trains longer: (workspace, commit); all before it is in the remote."""
    root = tmp_path / "origin"
    shutil.copytree(smoke.root, root, symlinks=True)
    document = yaml.safe_load((root / "dvc.yaml").read_text())
    for stage in ("baseline", "distill", "evaluate", "report"):
        del document["stages"][stage]
    (root / "dvc.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    values = (root / "params.yaml").read_text()
    found = re.search(r"^generator:.*?\bsteps: (60)\b", values, re.MULTILINE | re.DOTALL)
    assert found
    (root / "params.yaml").write_text(values[: found.start(1)] + "300" + values[found.end(1) :])
    add_remote(root, tmp_path / "remote")
    dvc(root, "push", "--run-cache")
    return root, commit(root)


def test_a_preempted_training_goes_on_on_another_machine(shorter, cluster, tmp_path):
    root, revision = shorter
    first = cluster.worker("first")
    coordinator = cluster.start("coordinator", PYTHON, "-c", ONE_STAGE, root, revision)
    counted = re.compile(r"generator: (\d+)/300, ")

    def counts():
        return [int(m[1]) for line in cluster.lines() if (m := counted.match(line))]

    until(counts, 600, "the training's first line")
    kill_tree(first.pid, signal.SIGTERM)  # as a machine does that is taken away
    kept = tmp_path / "remote/work" / revision / "generator.tar"
    until(kept.is_file, 60, "its state in the remote")
    before = max(counts())
    until(lambda: "Preempted" in cluster.states(), 60, "the end of the first run")
    kill_tree(first.pid)
    shutil.rmtree(tmp_path / "first")
    second = len(counts())
    cluster.worker("second")
    cluster.finish("coordinator", coordinator, 900)
    assert counts()[second:] and min(counts()[second:]) > before
    assert any("goes on with the unfinished work" in line for line in cluster.lines())
    assert not kept.exists()
    collect(root)
    lock = (root / "dvc.lock").read_bytes()
    # the same in one go
    done = subprocess.run(
        [PYTHON, "-m", "dvc", "repro", "--single-item", "--force", "generator"],
        cwd=root,
        env={**cluster.environment, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Running stage 'generator'" in done.stdout, done.stdout + done.stderr
    assert (root / "dvc.lock").read_bytes() == lock
    no_locks(root, tmp_path / "second")


def test_a_batch_of_videos_on_workers(smoke, cluster, tmp_path):
    photos, voices, out = tmp_path / "photos", tmp_path / "voices", tmp_path / "videos"
    photos.mkdir()
    voices.mkdir()
    shutil.copy(min((smoke.root / "data/identities/portraits").glob("*.png")), photos / "anna.png")
    shutil.copy(min((smoke.root / "data/speech/wav").glob("*.wav")), voices / "v0.wav")
    (voices / "v1.wav").write_bytes((voices / "v0.wav").read_bytes())
    cluster.worker("one")
    command = [PYTHON, "-m", "flows.speak_batch", "--on", "speak-cpu", "--size", "128"]
    command += ["--portraits", "photos", "--audios", "voices", "--out", "videos"]
    command += ["--model", str(smoke.root / "data/distill/student.safetensors")]
    cluster.finish("batch", cluster.start("batch", *command, cwd=tmp_path), 900)
    assert sorted(p.name for p in out.glob("*.mp4")) == ["anna--v0.mp4", "anna--v1.mp4"]
    assert json.loads((out / "anna--v1.mp4.json").read_text())["size"] == 128
    assert [run["state"]["name"] for run in cluster.runs("audioavatar-speaker")] == ["Completed"]
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    cluster.finish("again", cluster.start("again", *command, cwd=tmp_path), 200)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    # a portrait without a person is refused by the worker, with its reason
    from PIL import Image

    Image.new("RGB", (256, 256), "gray").save(photos / "wall.png")
    cluster.finish("wall", cluster.start("wall", *command, cwd=tmp_path), 400, code=2)
    assert "wall.png" in cluster.log("wall").strip().splitlines()[-1]
    assert Path(out / "anna--v0.mp4").is_file()
