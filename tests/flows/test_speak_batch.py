"""Portraits x recordings: what is refused, what is made, what is not made again. Real avatars of the smoke run's student."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.io.audio import write_wav
from avatar_core.io.video import read_video
from flows.speak_batch import PORTRAITS, jobs_of, listed, refusals
from flows.speak_job import Speaking, missing

ROOT = Path(__file__).resolve().parents[2]


def test_files_are_listed_by_kind_and_named_apart(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [Path(p).name for p in listed([str(tmp_path)], PORTRAITS, "portraits")] == ["a.JPG", "b.png"]
    assert len(listed([str(tmp_path), str(tmp_path / "deep/c.png")], PORTRAITS, "portraits")) == 3
    with pytest.raises(UserError, match="nowhere: expected a file or folder of portraits"):
        listed([str(tmp_path / "nowhere")], PORTRAITS, "portraits")
    with pytest.raises(UserError, match="expected portraits"):
        listed([str(tmp_path)], (".wav",), "portraits")
    (tmp_path / "deep/b.jpg").touch()
    with pytest.raises(UserError, match="found b twice"):
        listed([str(tmp_path), str(tmp_path / "deep/b.jpg")], PORTRAITS, "portraits")


def test_each_bad_file_has_its_line(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG no more")
    (tmp_path / "empty.wav").touch()
    tone = np.sin(np.arange(16000) / 20).astype(np.float32)
    write_wav(tmp_path / "good.wav", tone)
    names = [str(tmp_path / n) for n in ("torn.png", "empty.wav", "good.wav")]
    lines = refusals(names[:1], names[1:])
    assert [line.split(": ")[0] for line in lines] == names[:2] and all("\n" not in line for line in lines)


def test_a_long_list_is_dealt_out(tmp_path):
    for name in ("p.png", "m.safetensors", *(f"{k}.wav" for k in range(45))):
        (tmp_path / name).write_text(name)
    audios = [str(tmp_path / f"{k}.wav") for k in range(45)]
    how = Speaking(model=str(tmp_path / "m.safetensors"))
    jobs = jobs_of([str(tmp_path / "p.png")], audios, str(tmp_path / "out"), how)
    assert [len(job.audios) for job in jobs] == [20, 20, 5]
    assert [a for job in jobs for a in job.audios] == audios


def batch(project, home, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(home)}
    command = [sys.executable, "-m", "flows.speak_batch", *map(str, arguments)]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=800)


@pytest.mark.slow
@pytest.mark.cluster  # more than a minute: `make test-cluster`
def test_videos_are_made_once(smoke, tmp_path):
    photos, voices, out = tmp_path / "photos", tmp_path / "voices", tmp_path / "videos"
    photos.mkdir()
    voices.mkdir()
    portrait = min((smoke.root / "data/identities/portraits").glob("*.png"))
    shutil.copy(portrait, photos / "anna.png")
    for k, source in enumerate(sorted((smoke.root / "data/speech/wav").glob("*.wav"))[:2]):
        shutil.copy(source, voices / f"v{k}.wav")
    given = ["--portraits", photos, "--audios", voices, "--out", out, "--size", 128]
    given += ["--model", smoke.root / "data/distill/student.safetensors"]

    (voices / "v2.wav").write_bytes(b"no sound")
    done = batch(smoke.root, tmp_path / "prefect", *given)
    assert done.returncode == 2 and not out.exists()
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [["error", str(voices / "v2.wav")]]

    done = batch(smoke.root, tmp_path / "prefect", *given, "--skip-bad")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(p.name for p in out.glob("*.mp4")) == ["anna--v0.mp4", "anna--v1.mp4"]
    assert len(read_video(out / "anna--v0.mp4")) > 10
    (voices / "v2.wav").unlink()

    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    start = time.monotonic()
    done = batch(smoke.root, tmp_path / "prefect", *given)
    assert done.returncode == 0 and "2 of 2 videos are there, 0 to make" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before and time.monotonic() - start < 60

    # another recording under the same name, and a video whose record was never written, are made again
    shutil.copy(voices / "v0.wav", voices / "v1.wav")
    how = Speaking(model=str(smoke.root / "data/distill/student.safetensors"), size=128)
    [job] = jobs_of(
        [str(photos / "anna.png")], [str(voices / "v0.wav"), str(voices / "v1.wav")], str(out), how
    )
    assert missing(job) == [str(voices / "v1.wav")]
    (out / "anna--v0.mp4.json").unlink()
    assert len(missing(job)) == 1 and json.loads((out / "anna--v1.mp4.json").read_text())["size"] == 128


def test_a_missing_model_is_refused(tmp_path):
    done = batch(tmp_path, tmp_path, "--portraits", tmp_path, "--audios", tmp_path, "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: data/distill/student.safetensors: expected a file or folder of a trained"
    )
