"""One portrait and some recordings -> one video each, here. Files are named by paths, or by addresses that fsspec reads (s3://...).

A finished video has a record beside it that says of what it was made: what is recorded is not made again.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from avatar_core.speak.articulation import ARTICULATION
from flows.errors import StageFailed, StageLost, StageRefused
from flows.needs import Needs
from flows.processes import stream
from flows.repro import environment

SPEAKING = Needs(cores=2, memory_gb=3.0, hours=6.0)  # a portrait and its recordings
_AVATAR = [sys.executable, "-m", "avatar_core.cli"]


@dataclass(frozen=True)
class Speaking:
    """How all videos of a batch are made: the options of `avatar speak`."""

    model: str = "data/distill/student.safetensors"
    size: int = 512
    articulation: float = ARTICULATION
    seed: int = 0
    gestures: Literal["auto", "full", "off"] = "auto"
    background: str = "keep"
    device: str = "cpu"


@dataclass(frozen=True)
class Job:
    """portrait, audios: paths or addresses; out: the folder of the videos, <portrait>--<audio>.mp4."""

    portrait: str
    audios: list[str]
    out: str
    how: Speaking

    def video(self, audio: str) -> str:
        return posixpath.join(self.out, f"{stem(self.portrait)}--{stem(audio)}.mp4")


def stem(path: str) -> str:
    """The name of a file without its folder and ending."""
    return posixpath.basename(path).rsplit(".", 1)[0]


def missing(job: Job) -> list[str]:
    """The recordings whose video is not there yet, or was made of something else."""
    return [audio for audio in job.audios if not _recorded(job, audio)]


def make_videos(job: Job, say: Callable[[str], None], extra: dict[str, str] | None = None) -> int:
    """Make the videos of a job that are missing; returns how many were. `extra`: variables for the work (which card).

    Raises StageRefused (no person in the portrait, say), StageFailed, StageLost.
    """
    todo = missing(job)
    if not todo:
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        portrait, model = fetched(job.portrait, folder / "portrait"), fetched(job.how.model, folder / "model")
        how = job.how
        avatar, common = str(folder / "avatar"), ["--model", str(model), "--device", how.device]
        _run(["personalise", "-p", str(portrait), "-o", avatar, *common], job, say, extra)
        for audio in todo:
            video = folder / "made.mp4"
            sound = str(fetched(audio, folder / "audio"))
            command = ["speak", "--avatar", avatar, "-a", sound, "-o", str(video), *common]
            command += [
                "--size",
                str(how.size),
                "--seed",
                str(how.seed),
                "--articulation",
                str(how.articulation),
            ]
            command += ["--gestures", how.gestures, "--background", how.background]
            _run(command, job, say, extra)
            _put(video, job.video(audio))
            record = folder / "made.json"
            record.write_text(json.dumps(_made_of(job, audio)))
            _put(record, job.video(audio) + ".json")
            video.unlink()
    return len(todo)


def _run(command: list[str], job: Job, say: Callable[[str], None], extra: dict[str, str] | None) -> None:
    root = Path.cwd()
    seconds = SPEAKING.hours * 3600
    code, lines = stream([*_AVATAR, *command], root, say, {**environment(root), **(extra or {})}, seconds)
    if code == 0:
        return
    said = [line.removeprefix("error: ") for line in lines if line.strip()] or [f"exit code {code}"]
    kind = StageRefused if code == 2 else StageLost if code < 0 or code > 128 else StageFailed
    raise kind(f"{job.portrait}: {said[-1]}")


def _recorded(job: Job, audio: str) -> bool:
    files, path = fsspec.core.url_to_fs(job.video(audio))
    try:
        return files.exists(path) and json.loads(files.cat_file(path + ".json")) == _made_of(job, audio)
    except (FileNotFoundError, ValueError):
        return False


def _made_of(job: Job, audio: str) -> dict[str, object]:
    return {
        "portrait": _digest(job.portrait),
        "audio": _digest(audio),
        **{**asdict(job.how), "model": _digest(job.how.model), "device": job.how.device.split(":")[0]},
    }


def _digest(address: str) -> str:
    with fsspec.open(address) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def fetched(address: str, folder: Path) -> Path:
    """A file of this machine with the content and the name of `address`."""
    files, path = fsspec.core.url_to_fs(address)
    if isinstance(files, LocalFileSystem):
        return Path(path)
    folder.mkdir(exist_ok=True)
    here = folder / posixpath.basename(path)
    files.get_file(path, str(here))
    return here


def _put(here: Path, address: str) -> None:
    """`address` has the file whole or not at all: an object store takes it in one piece, a disk under another name first."""
    files, path = fsspec.core.url_to_fs(address)
    files.makedirs(posixpath.dirname(path), exist_ok=True)
    if isinstance(files, LocalFileSystem):
        files.put_file(str(here), path + ".part")
        Path(path + ".part").replace(path)
    else:
        files.put_file(str(here), path)
