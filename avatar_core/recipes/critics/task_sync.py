"""Training of the audio-visual sync critic after SyncNet (Chung and Zisserman 2016): five mouth frames against
0.2 s of log-mel, InfoNCE over windows of the same and of other clips.

Legend: B batch, T frames of a clip, M mel bands, S crop pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from avatar_core.metrics.sync import sync_scores
from avatar_core.perception import boxes
from avatar_core.perception import warp as A
from avatar_core.perception.layout import LAYOUT
from avatar_core.perception.nets import SyncNet
from avatar_core.recipes.critics.dataset import FLAT, Dataset
from avatar_core.recipes.critics.scores import roc_area
from avatar_core.recipes.critics.task import Task

SIZE = 64
FRAMES = 5
CLIPS, WINDOWS = 8, 6  # of a batch
APART = 3  # frames between the windows that one batch takes from a clip: nearer ones say the same


def mouth_crops(
    frames: list[NDArray], face: NDArray, lips: NDArray, jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> NDArray:
    """Mouth crops (T,S,S,C) of float frames (H,W,C) with one box for all; jitter = dx, dy (of side), log scale."""
    cx, cy, side = boxes.mouth_box(face, lips)
    centre = np.array([cx + jitter[0] * side, cy + jitter[1] * side])
    matrix = A.crop_matrix(centre, side * np.exp(jitter[2]), SIZE)
    return np.stack([A.warp(frame, matrix, SIZE) for frame in frames])


def _clip(arrays: dict[str, NDArray], rng: np.random.Generator, train: bool) -> tuple[NDArray, NDArray]:
    """Windows of one talking clip -> mouths (W,5,S,S,3), log-mel (W,20,M)."""
    count = len(arrays["talk_rgb"])
    starts = np.sort(rng.choice((count - FRAMES) // APART, WINDOWS, replace=False)) * APART
    starts = starts + rng.integers(0, APART)
    used = sorted({int(s) + k for s in starts for k in range(FRAMES)})
    position = {frame: k for k, frame in enumerate(used)}
    stack = [
        np.concatenate([arrays["talk_rgb"][f], arrays["talk_alpha"][f][..., None]], -1).astype(np.float32)
        / 255
        for f in used
    ]
    xy = arrays["talk_xy"][used]
    jitter = (0.0, 0.0, 0.0)
    if train:
        jitter = (rng.normal(0, 0.04), rng.normal(0, 0.04), rng.normal(0, 0.08))
    crops = mouth_crops(stack, xy[:, LAYOUT.face], xy[:, LAYOUT.lips], jitter)
    backdrop = A.background(rng, SIZE)
    # One look for the whole clip: colour and softness must not flicker in step with anything.
    seed = int(rng.integers(1 << 31))
    images = []
    for crop in crops:
        image = A.composite(crop[..., :3], crop[..., 3], FLAT / 255, backdrop)
        images.append(A.photometric(image, np.random.default_rng(seed), hard=0.8))
    mouths = np.stack(images)
    if train and rng.random() < 0.5:
        mouths = mouths[:, :, ::-1]
    mel = np.asarray(arrays["talk_mel"], np.float32)
    if train:
        mel = augment_mel(mel, rng)
    windows = [[position[int(s) + k] for k in range(FRAMES)] for s in starts]
    return mouths[np.array(windows)], np.stack([mel[4 * int(s) : 4 * int(s) + 4 * FRAMES] for s in starts])


def talk_windows(arrays: dict[str, NDArray]) -> tuple[Tensor, Tensor]:
    """A whole talking clip, as rendered -> mouths (T-4,5,3,S,S), log-mel (T-4,20,M)."""
    frames = [frame.astype(np.float32) / 255 for frame in arrays["talk_rgb"]]
    xy = arrays["talk_xy"]
    crops = mouth_crops(frames, xy[:, LAYOUT.face], xy[:, LAYOUT.lips]).transpose(0, 3, 1, 2)
    starts = range(len(crops) - FRAMES + 1)
    mel = np.asarray(arrays["talk_mel"], np.float32)
    mouths = np.stack([crops[s : s + FRAMES] for s in starts])
    return torch.from_numpy(mouths), torch.from_numpy(
        np.stack([mel[4 * s : 4 * (s + FRAMES)] for s in starts])
    )


def augment_mel(mel: NDArray, rng: np.random.Generator) -> NDArray:
    """Vocal-tract warp, gain, tilt and additive noise on log-mel (L,M) in ln(power)."""
    bands = mel.shape[1]
    if rng.random() < 0.7:
        at = np.clip(np.arange(bands) * rng.uniform(0.88, 1.14), 0, bands - 1)
        low = np.minimum(at.astype(int), bands - 2)
        part = (at - low).astype(np.float32)
        mel = mel[:, low] * (1 - part) + mel[:, low + 1] * part
    tilt = np.linspace(-1, 1, bands) * rng.normal(0, 0.7)
    mel = mel + rng.normal(0, 1.2) + tilt
    if rng.random() < 0.4:
        floor = mel.max() - rng.uniform(5, 14)
        mel = np.logaddexp(mel, floor + rng.normal(0, 0.5, mel.shape))
    return mel.astype(np.float32)


def _batcher(
    data: Dataset, folders: tuple[Path, ...], train: bool
) -> Callable[[np.random.Generator, int], dict]:
    def batch(rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        chosen = rng.choice(len(folders), min(count, len(folders)), replace=False)
        parts = [_clip(data.arrays[folders[k]], rng, train) for k in chosen]
        mouths = np.concatenate([m for m, _ in parts])
        return {
            "mouths": torch.from_numpy(np.ascontiguousarray(mouths.transpose(0, 1, 4, 2, 3))),
            "mel": torch.from_numpy(np.concatenate([m for _, m in parts])),
        }

    return batch


def info_nce(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Symmetric InfoNCE: window i's mouth belongs to window i's audio and to no other of the batch."""
    assert isinstance(net, SyncNet)
    video, audio = net.embed_video(batch["mouths"]), net.embed_audio(batch["mel"])
    logits = video @ audio.T * net.log_temperature.exp().clamp(max=30)
    target = torch.arange(len(logits))
    loss = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    return loss, {"nce": float(loss.detach()), "acc": float((logits.argmax(-1) == target).float().mean())}


@torch.no_grad()
def sync_accuracy(net: SyncNet, data: Dataset) -> dict[str, float]:
    """Clips of held-out people: is the right offset found, and how far apart are own and foreign audio."""

    videos, audios = [], []
    for folder in data.held_out:
        mouths, mel = talk_windows(data.arrays[folder])
        videos.append(net.embed_video(mouths).numpy())
        audios.append(net.embed_audio(mel).numpy())
    own = [sync_scores(v, a) for v, a in zip(videos, audios, strict=True)]
    foreign = [sync_scores(v, a) for i, v in enumerate(videos) for j, a in enumerate(audios) if i != j]
    late = [sync_scores(v[6:], a[:-6]) for v, a in zip(videos, audios, strict=True)]
    return {
        "offset_within_1": round(float(np.mean([abs(s.offset) <= 1 for s in own])), 4),
        "shift_of_6_found_within_1": round(float(np.mean([abs(abs(s.offset) - 6) <= 1 for s in late])), 4),
        "sync_c_own": round(float(np.mean([s.confidence for s in own])), 4),
        "sync_c_foreign": round(float(np.mean([s.confidence for s in foreign])), 4),
        "sync_d_own": round(float(np.mean([s.distance for s in own])), 4),
        "sync_d_foreign": round(float(np.mean([s.distance for s in foreign])), 4),
        "auc_sync_c": round(
            roc_area(np.array([s.confidence for s in own]), np.array([s.confidence for s in foreign])), 4
        ),
        "clips": float(len(own)),
    }


def make_sync_task(data: Dataset) -> Task:
    """Task of the sync net."""
    mel = np.concatenate([data.arrays[f]["talk_mel"] for f in data.train]).astype(np.float64)

    def build() -> nn.Module:
        net = SyncNet()
        net.audio.mel_mean.copy_(torch.from_numpy(mel.mean(0)).float())
        net.audio.mel_std.copy_(torch.from_numpy(mel.std(0) + 0.5).float())
        return net

    def evaluate(net: nn.Module) -> dict[str, float]:
        assert isinstance(net, SyncNet)
        return sync_accuracy(net, data)

    return Task(
        name="sync",
        build=build,
        batch=_batcher(data, data.train, True),
        loss=info_nce,
        evaluate=evaluate,
        steps=3000,
        batch_size=CLIPS,
        learning_rate=2e-3,
        config={"kind": "SyncNet", "size": SIZE, "frames": FRAMES, "mel": "ln(power+1e-7), 80 bands, 100 Hz"},
    )
