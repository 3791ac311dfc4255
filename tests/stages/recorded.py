"""What tests of stages on files of one's own share: small parameters, a stage in this process, sounds, clips, a teacher as text."""

import copy
import importlib
from pathlib import Path

import numpy as np
import yaml

from avatar_core.clock import SAMPLE_RATE
from avatar_core.io.audio import write_wav
from avatar_core.io.video import write_mp4
from stages.common import Stage
from stages.params import parse_params

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "run": {"shards": [0], "workers": 2},
    "identities": {"backend": "folder", "train": 1, "val": 1, "test": 1},
    "speech": {
        "backend": "folder",
        "face_clips": 1,
        "waist_up_clips": 0,
        "full_body_clips": 0,
        "val_clips": 1,
        "val_waist_up_clips": 0,
        "test_clips": 1,
        "max_seconds": 0.52,
    },
    "teacher": {"backends": {"folder": 1.0}, "size": 96, "full_body_size": 96},
}

STICK = '''
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from avatar_core.config import ranged
from avatar_core.geometry.camera import Camera
from avatar_core.io.images import read_image
from avatar_core.teacher import ClipRequest, ClipTruth, TeacherClip

@dataclass(frozen=True)
class StickTeacher:
    """The portrait's mean colour as backdrop, a stick that sways."""

    provides: ClassVar[frozenset[str]] = frozenset({"masks", "camera", "truth"})
    needs: ClassVar[frozenset[str]] = frozenset()
    width: int = ranged(8, 2, 20)
    lazy: bool = False  # keeps the truth to itself

    def make(self, request: ClipRequest) -> TeacherClip:
        mean = read_image(request.portrait).mean((0, 1)) * 255
        frames = np.full((request.num_frames, request.size, request.size, 3), mean, np.uint8)
        masks = np.zeros(frames.shape[:3], np.uint8)
        for t in range(len(frames)):
            masks[t, :, 20 + t : 20 + t + self.width] = 255
        frames[masks > 0] = request.seed % 200
        truth = ClipTruth(np.arange(4, dtype=np.int32), np.zeros((len(frames), 4, 3), np.float32),
                          Camera(np.eye(3), np.eye(4), request.size, request.size), np.roll(masks, 1, 2))
        return TeacherClip(frames, masks, None if self.lazy else truth)
'''


def merged(base, change):
    base = copy.deepcopy(base)
    for key, value in change.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "backends"
        base[key] = merged(base[key], value) if nested else value
    return base


def params(files: Path, **change):
    raw = merged(yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text()), SMALL)
    for section, folder in (("identities", "photos"), ("speech", "sounds"), ("teacher", "videos")):
        raw = merged(raw, {section: {"folder": {"path": str(files / folder)}}})
    return parse_params(merged(raw, change))


def run(name, values, data):
    stage = Stage(name, 0 if name == "teacher" else None, values, data)
    importlib.import_module(f"stages.{name}").main(stage)
    return stage


def write_sound(path, seconds, pitch):
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    write_wav(path, (0.3 * np.sin(2 * np.pi * pitch * times)).astype(np.float32))


def write_clip(path, frames, k):
    """A bright disc that wanders over a plain backdrop -> which pixels it covers (T,H,W)."""
    y, x = np.mgrid[:96, :128]
    disc = np.stack([(x - 40 - t) ** 2 + (y - 48) ** 2 < 20**2 for t in range(frames)])
    spots = np.kron(np.random.default_rng(k).integers(90, 250, (16, 22)), np.ones((6, 6), int))[:96, :128]
    skin = np.stack([np.roll(spots, t, 1) for t in range(frames)])[..., None] * np.array([1.0, 0.8, 0.6])
    video = np.where(disc[..., None], skin, np.array([20, 24, 30]))
    write_mp4(path, video.astype(np.uint8), crf=4)
    return disc
