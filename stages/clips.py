"""What the training stages read: sound, latents, video and canonical avatars of the clips that earlier stages made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatar_core.audio import log_mel
from avatar_core.embed.batches import MotionClip
from avatar_core.embed.codec import ClipMotion, MotionCodec
from avatar_core.fit.config import VALID
from avatar_core.io.audio import read_audio
from avatar_core.io.catalog import read_catalog
from avatar_core.io.store import Store, Trajectories
from avatar_core.io.video import read_video
from avatar_core.particles.canonical import Canonical, load_canonical
from avatar_core.particles.deformation import Deformation
from avatar_core.particles.layout import ParticleLayout, make_layout
from avatar_core.template.mesh import load_template
from avatar_core.training.loop import History, mean_losses
from stages.common import Stage

MAX_FRAMES = 4000
Row = dict[str, Any]


def layout_of(stage: Stage) -> ParticleLayout:
    """The particle layout of this run's parameters."""
    budgets = vars(stage.params.particles)
    return make_layout(
        load_template(), {k: v for k, v in budgets.items() if k not in ("seed", "shell")}, budgets["seed"]
    )


def fitted_rows(stage: Stage, *splits: str) -> list[Row]:
    """Catalogue rows of the fitted clips of some splits that passed quality control."""
    rows = [row for folder in stage.shards("fit") for row in read_catalog(folder / "catalog.parquet")]
    return sorted((r for r in rows if r["split"] in splits and r["status"] == "ok"), key=lambda r: r["id"])


def clip_audio(stage: Stage, clip: str) -> np.ndarray:
    """(S,) float32 at 16 kHz."""
    return read_audio(stage.data / "speech" / "wav" / f"{clip}.wav")


def clip_mel(stage: Stage, clip: str) -> np.ndarray:
    """Raw log-mel (4T,80)."""
    return log_mel(torch.from_numpy(clip_audio(stage, clip))).numpy()


def clip_frames(stage: Stage, row: Row) -> np.ndarray:
    """The teacher's frames (T,H,W,3) uint8."""
    return read_video(stage.data / "teacher" / f"shard-{row['shard']}" / f"{row['id']}.mp4", MAX_FRAMES)


def clip_aux(stage: Stage, row: Row, kind: str) -> np.ndarray:
    """The teacher's masks (T,H,W) or tracks (T,P,2)."""
    return Store(stage.data / "teacher" / f"shard-{row['shard']}" / "aux.zarr").read(f"{kind}/{row['id']}")


def canonical_path(stage: Stage, identity: str, shard: int) -> Path:
    return stage.data / "fit" / f"shard-{shard}" / "canonical" / f"{identity}.safetensors"


@dataclass
class FittedMotion(Sequence[ClipMotion]):
    """The fitted deformations of `rows`, each read from its store when it is asked for."""

    stage: Stage
    rows: list[Row]

    def __post_init__(self) -> None:
        self._stores = {
            k: Trajectories(folder / "trajectories.zarr") for k, folder in enumerate(self.stage.shards("fit"))
        }
        self._canonicals: dict[str, Canonical] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def canonical(self, row: Row) -> Canonical:
        if row["identity"] not in self._canonicals:
            path = canonical_path(self.stage, row["identity"], row["shard"])
            self._canonicals[row["identity"]] = load_canonical(path)
        return self._canonicals[row["identity"]]

    def __getitem__(self, k: int) -> ClipMotion:  # type: ignore[override]
        row = self.rows[k]
        arrays = {n: a.astype(np.float32) for n, a in self._stores[row["shard"]].read_clip(row["id"]).items()}
        confidence = arrays.pop("confidence")[:, 0, 0]
        return ClipMotion(
            Deformation(**arrays), VALID[row["framing"]], float(self.canonical(row).stature), confidence
        )

    def __iter__(self) -> Iterator[ClipMotion]:
        return (self[k] for k in range(len(self)))


def motion_clips(stage: Stage, codec: MotionCodec, motion: FittedMotion) -> list[MotionClip]:
    """Sound and latents of every clip, as the generator's training takes them."""
    clips = []
    with torch.no_grad():
        for row, clip in zip(motion.rows, motion, strict=True):
            x = codec.encode(clip.deformation, clip.stature, clip.valid).numpy()
            clips.append(MotionClip(clip_mel(stage, row["id"]), x, clip.valid, clip.confidence))
    return clips


def loss_rows(history: History, rows: int = 150) -> list[dict[str, float | str]]:
    """A training history as about `rows` rows of loss.csv, each the mean of its steps; empty where a term was absent."""
    every = max(1, len(history) // rows)
    names = sorted({name for row in history for name in row})
    out: list[dict[str, float | str]] = []
    for start in range(0, len(history), every):
        part = mean_losses(history[start : start + every])
        out.append({"step": min(start + every, len(history)), **{n: part.get(n, "") for n in names}})
    return out
