"""The first stages on files: three drawn people who make noises, so that later stages have clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatar_core.io.audio import write_wav
from avatar_core.io.catalog import read_catalog
from avatar_core.io.images import write_png
from avatar_core.io.video import write_mp4
from stages import identities, speech, teacher
from stages.common import Stage
from stages.params import parse_params


def film(raw: dict[str, Any], root: Path, seconds: float, perception: dict[str, Any] | None = None) -> Path:
    """Run the first stages with `raw` changed in place to read files; the data folder. Its clips: a portrait that shakes."""
    rng, portrait = np.random.default_rng(0), np.full((256, 256, 3), 0.8, np.float32)
    cv2.ellipse(portrait, (128, 120), (40, 60), 0, 0, 360, (0.7, 0.5, 0.4), -1)
    cv2.ellipse(portrait, (128, 150), (16, 6), 0, 0, 360, (0.3, 0.1, 0.1), -1)
    cv2.circle(portrait, (128, 95), 7, (1.0, 1.0, 1.0), -1)
    for k in range(3):
        write_png(root / "photos" / f"{k}.png", portrait * (1 - 0.1 * k))
        write_wav(
            root / "sounds" / f"s{k}.wav", (0.2 * rng.normal(size=round(16000 * seconds))).astype(np.float32)
        )
    raw["run"] |= {"shards": [0]}
    raw["identities"] |= {
        "backend": "folder",
        "train": 1,
        "val": 1,
        "test": 1,
        "folder": {"path": str(root / "photos")},
    }
    raw["speech"] |= {
        "backend": "folder", "folder": {"path": str(root / "sounds")}, "face_clips": 2, "waist_up_clips": 0, "full_body_clips": 0,
        "val_clips": 1, "val_waist_up_clips": 0, "test_clips": 1,
    }  # fmt: skip
    raw["teacher"] |= {"backends": {"folder": 1.0}, "folder": {"path": str(root / "videos")}, "size": 96}
    raw["perception"] |= perception or {"masks": "grabcut"}
    params, data = parse_params(raw), root / "data"
    identities.main(Stage("identities", None, params, data))
    stage = Stage("speech", None, params, data)
    speech.main(stage)
    picture = (cv2.resize(portrait, (96, 96)) * 255).astype(np.uint8)
    for row in read_catalog(stage.out / "catalog.parquet"):
        frames = np.stack([np.roll(picture, int(rng.integers(-2, 3)), 1) for _ in range(row["t_len"])])
        write_mp4(root / "videos" / f"{row['id']}.mp4", frames)
    teacher.main(Stage("teacher", 0, params, data))
    return data
