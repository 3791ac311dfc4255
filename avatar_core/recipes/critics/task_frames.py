"""Training of the frame critic (FID features, embedded IQA and ASE) and of the clip critic (FVD features).

The embedded IQA is a regressor of known damage, nothing more: rendered frames are blurred, down-sampled, made
noisy, compressed, sprinkled with splat artefacts, and the score falls from 5 to 1 with how much was done. The
embedded ASE falls with bad exposure, flat contrast, colour casts, tilt, a subject cut off or off centre, and
half as much with the technical damage. Neither knows what people like.

Legend: B batch, T frames, S pixels, K layout points.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from avatar_core.perception import warp as A
from avatar_core.perception.layout import LAYOUT
from avatar_core.perception.nets import ClipNet, FrameNet
from avatar_core.recipes.critics.dataset import FLAT, Dataset
from avatar_core.recipes.critics.scores import pearson, rank_correlation
from avatar_core.recipes.critics.task import Task

SIZE, CLIP_SIZE, CLIP_FRAMES = 128, 64, 16
CLIP_KINDS = ("clean", "frozen", "shaky", "shuffled", "smeared", "fast", "popping", "soft")


def damage(image: NDArray, rng: np.random.Generator, severity: float) -> NDArray:
    """Technical damage of `severity` 0..1, shared out at random over blur, resolution, noise, JPEG and splats."""
    if severity <= 0.01:
        return image
    size = image.shape[0]
    share = rng.dirichlet(np.full(6, 0.4)) * severity
    blur, small, grain, code, floaters, holes = share
    if blur > 0.02:
        image = A.cv2.GaussianBlur(image, (0, 0), 0.25 + 3.0 * blur)
    if small > 0.02:
        low = max(8, int(size / (1 + 5 * small)))
        image = A.cv2.resize(image, (low, low), interpolation=A.cv2.INTER_AREA)
        image = A.cv2.resize(image, (size, size), interpolation=A.cv2.INTER_LINEAR)
    if floaters > 0.02:
        image = A.splats(image, rng, int(1 + 70 * floaters))
    if holes > 0.02:
        image = A.splats(image, rng, int(1 + 70 * holes), "flat")
    if grain > 0.02:
        image = image + A.noise(rng, image.shape) * np.float32(0.16 * grain)
    if code > 0.02:
        image = A.jpeg(image, int(np.clip(80 * (1 - code) ** 2, 4, 95)))
    return np.clip(image, 0, 1).astype(np.float32)


def distaste(image: NDArray, rng: np.random.Generator, severity: float) -> NDArray:
    """Exposure, contrast, cast and saturation damage of `severity` 0..1."""
    gain, flat, cast, grey = rng.dirichlet(np.full(4, 0.5)) * severity
    image = image * np.float32(np.exp(rng.choice([-1.6, 1.0]) * gain))
    image = 0.5 + (image - 0.5) * np.float32(1 - 0.8 * flat)
    image = image * (1 + rng.normal(0, 0.5, 3) * cast).astype(np.float32)
    mean = image.mean(-1, keepdims=True)
    factor = 1 - grey if rng.random() < 0.5 else 1 + 2.5 * grey
    return np.clip(mean + (image - mean) * np.float32(factor), 0, 1).astype(np.float32)


def _severity(rng: np.random.Generator) -> float:
    return 0.0 if rng.random() < 0.25 else float(rng.random())


def frame_sample(
    arrays: dict[str, NDArray], rng: np.random.Generator
) -> tuple[NDArray, float, float, NDArray]:
    """-> damaged image (S,S,3), quality, aesthetics in [1,5], layout points (K,2) / S (NaN when outside)."""
    kind = str(rng.choice(["body", "face", "talk"], p=[0.6, 0.2, 0.2]))
    index = int(rng.integers(len(arrays[f"{kind}_rgb"])))
    stack = np.concatenate([arrays[f"{kind}_rgb"][index], arrays[f"{kind}_alpha"][index][..., None]], -1)
    pixels = stack.shape[0]
    # Framing: one third well framed, the rest shifted, tilted or cut.
    off = 0.0 if rng.random() < 0.35 else float(rng.random())
    shift = rng.normal(0, 0.14 * off, 2)
    tilt = rng.normal(0, 0.14 * off)
    zoom = np.exp(rng.uniform(-0.5, 0.1))
    matrix = A.crop_matrix(pixels * (0.5 + shift), pixels * zoom, SIZE, tilt)
    crop = A.warp(stack.astype(np.float32) / 255, matrix, SIZE)
    points = A.apply_matrix(matrix, arrays[f"{kind}_xy"][index].astype(float))
    if rng.random() < 0.5:
        crop = np.ascontiguousarray(crop[:, ::-1])
        points[:, 0] = SIZE - points[:, 0]
        points = points[LAYOUT.mirror]
    image = crop[..., :3]
    if rng.random() < 0.6:
        image = A.composite(image, crop[..., 3], FLAT / 255, A.background(rng, SIZE))
    image = A.colour(np.clip(image, 0, 1), rng, 0.3)
    technical, taste = _severity(rng), _severity(rng)
    image = damage(distaste(image, rng, taste), rng, technical)
    layout = points[LAYOUT.coarse] / SIZE
    layout[((layout < 0) | (layout > 1)).any(-1)] = np.nan
    bad_framing = min(1.0, 2.5 * float(np.abs(shift).max()) + 2.0 * abs(tilt))
    quality = 5 - 4 * technical
    aesthetics = 1 + 4 * (1 - taste) * (1 - 0.5 * technical) * (1 - 0.6 * bad_framing)
    return image, quality, aesthetics, layout


def frame_loss(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Scores by smooth L1, the person by cross-entropy, the layout by L1: the last two give features content."""
    out = net(batch["image"])
    quality = F.smooth_l1_loss(out["quality"], batch["quality"], beta=0.3)
    aesthetics = F.smooth_l1_loss(out["aesthetics"], batch["aesthetics"], beta=0.3)
    person = F.cross_entropy(out["attributes"], batch["label"])
    target = batch["layout"].flatten(1)
    known = ~target.isnan()
    layout = (out["layout"] - target.nan_to_num())[known].abs().mean()
    loss = quality + 0.5 * aesthetics + 0.15 * person + 2.0 * layout
    return loss, {
        "iqa": float(quality.detach()),
        "ase": float(aesthetics.detach()),
        "person": float(person.detach()),
        "layout": float(layout.detach()),
    }


def _frame_batcher(data: Dataset, folders: tuple[Path, ...]) -> Callable[[np.random.Generator, int], dict]:
    def batch(rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        labels = rng.integers(0, len(folders), count)
        samples = [frame_sample(data.arrays[folders[k]], rng) for k in labels]
        image, quality, aesthetics, layout = zip(*samples, strict=True)
        return {
            "image": torch.from_numpy(np.stack(image)).permute(0, 3, 1, 2).contiguous(),
            "quality": torch.tensor(quality, dtype=torch.float32),
            "aesthetics": torch.tensor(aesthetics, dtype=torch.float32),
            "layout": torch.from_numpy(np.stack(layout).astype(np.float32)),
            "label": torch.from_numpy(labels),
        }

    return batch


@torch.no_grad()
def frame_accuracy(
    net: nn.Module, batch: Callable[[np.random.Generator, int], dict[str, Tensor]], rounds: int = 16
) -> dict[str, float]:
    """Rank and linear correlation of the embedded IQA and ASE with the severity of the damage done."""
    rows = []
    for k in range(rounds):
        data = batch(np.random.default_rng([92, k]), 32)
        out = net(data["image"])
        rows.append(
            torch.stack([out["quality"], data["quality"], out["aesthetics"], data["aesthetics"]], 1).numpy()
        )
    table = np.concatenate(rows)
    return {
        "iqarank_correlation": round(rank_correlation(table[:, 0], table[:, 1]), 4),
        "iqa_mean_error": round(float(np.abs(table[:, 0] - table[:, 1]).mean()), 4),
        "aserank_correlation": round(rank_correlation(table[:, 2], table[:, 3]), 4),
        "ase_mean_error": round(float(np.abs(table[:, 2] - table[:, 3]).mean()), 4),
        "samples": float(len(table)),
    }


def make_frame_task(data: Dataset) -> Task:
    """Task of the frame net."""

    def evaluate(net: nn.Module) -> dict[str, float]:
        return frame_accuracy(net, _frame_batcher(data, data.held_out))

    return Task(
        name="frame",
        build=lambda: FrameNet(len(data.train), 2 * len(LAYOUT.coarse)),
        batch=_frame_batcher(data, data.train),
        loss=frame_loss,
        evaluate=evaluate,
        steps=3500,
        batch_size=32,
        learning_rate=2e-3,
        config={
            "kind": "FrameNet",
            "size": SIZE,
            "people": len(data.train),
            "layout": 2 * len(LAYOUT.coarse),
        },
    )


def spoil_clip(clip: NDArray, kind: str, rng: np.random.Generator) -> NDArray:
    """Apply one temporal fault of CLIP_KINDS to frames (T,S,S,3). "fast" is done where frames are picked."""
    count = len(clip)
    if kind == "frozen":
        hold = int(rng.integers(2, 6))
        return clip[(np.arange(count) // hold) * hold]
    if kind == "shuffled":
        return clip[np.argsort(np.arange(count) + rng.normal(0, 2.0, count))]
    if kind == "smeared":
        width = int(rng.integers(2, 5))
        at = np.clip(np.arange(count)[:, None] + np.arange(-width, width + 1), 0, count - 1)
        return clip[at].mean(1)
    if kind == "soft":
        return np.stack([A.cv2.GaussianBlur(f, (0, 0), 1.2) for f in clip])
    if kind == "popping":
        return np.stack([A.splats(f, rng, int(rng.integers(2, 10))) for f in clip])
    if kind == "shaky":
        size = clip.shape[1]
        amount = rng.uniform(0.006, 0.03) * size
        return np.stack(
            [A.warp(f, A.crop_matrix(size / 2 + rng.normal(0, amount, 2), size, size), size) for f in clip]
        )
    return clip


def clip_sample(arrays: dict[str, NDArray], rng: np.random.Generator, kind: str) -> tuple[NDArray, NDArray]:
    """-> clip (T,S,S,3) with the fault `kind`, mean speed of face, lips and hands (3,) in crop pixels a frame."""
    source = "talk" if kind == "fast" or rng.random() < 0.65 else "scene"
    step = 2 if kind == "fast" else 1
    count = len(arrays[f"{source}_rgb"])
    start = int(rng.integers(0, count - step * (CLIP_FRAMES - 1)))
    picked = start + step * np.arange(CLIP_FRAMES)
    if rng.random() < 0.3 and kind != "fast":
        picked = picked[::-1]
    stack = np.concatenate(
        [arrays[f"{source}_rgb"][picked], arrays[f"{source}_alpha"][picked][..., None]], -1
    )
    pixels = stack.shape[1]
    side = pixels * np.exp(rng.uniform(-0.35, 0.0))
    matrix = A.crop_matrix(pixels * (0.5 + rng.normal(0, 0.05, 2)), side, CLIP_SIZE)
    crops = np.stack([A.warp(frame.astype(np.float32) / 255, matrix, CLIP_SIZE) for frame in stack])
    if rng.random() < 0.5:
        crops = crops[:, :, ::-1]
    backdrop = A.background(rng, CLIP_SIZE)
    clip = np.stack([A.composite(c[..., :3], c[..., 3], FLAT / 255, backdrop) for c in crops])
    seed = int(rng.integers(1 << 31))
    clip = np.stack([A.colour(np.clip(f, 0, 1), np.random.default_rng(seed), 0.6) for f in clip])
    points = A.apply_matrix(matrix, arrays[f"{source}_xy"][picked].astype(float))
    hands = np.concatenate([LAYOUT.hand_left, LAYOUT.hand_right])
    groups = (LAYOUT.face, LAYOUT.lips, hands)
    speed = [np.linalg.norm(np.diff(points[:, g], axis=0), axis=-1).mean() for g in groups]
    return spoil_clip(clip, kind, rng).astype(np.float32), np.minimum(np.array(speed, np.float32), 4.0)


def clip_loss(net: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Name the fault, tell how fast things moved."""
    out = net(batch["clip"])
    kind = F.cross_entropy(out["kind"], batch["kind"])
    motion = F.smooth_l1_loss(out["motion"], batch["motion"], beta=0.2)
    accuracy = float((out["kind"].argmax(-1) == batch["kind"]).float().mean())
    return kind + motion, {"kind": float(kind.detach()), "acc": accuracy, "motion": float(motion.detach())}


def _clip_batcher(data: Dataset, folders: tuple[Path, ...]) -> Callable[[np.random.Generator, int], dict]:
    def batch(rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        kinds = rng.integers(0, len(CLIP_KINDS), count)
        parts = [
            clip_sample(data.arrays[folders[int(rng.integers(len(folders)))]], rng, CLIP_KINDS[k])
            for k in kinds
        ]
        return {
            "clip": torch.from_numpy(np.stack([c for c, _ in parts])).permute(0, 1, 4, 2, 3).contiguous(),
            "motion": torch.from_numpy(np.stack([m for _, m in parts])),
            "kind": torch.from_numpy(kinds),
        }

    return batch


@torch.no_grad()
def clip_accuracy(
    net: nn.Module, batch: Callable[[np.random.Generator, int], dict[str, Tensor]], rounds: int = 20
) -> dict[str, float]:
    """Share of faults named right, and correlation of the told speeds with the true ones."""
    right, ours, truth = [], [], []
    for k in range(rounds):
        data = batch(np.random.default_rng([93, k]), 16)
        out = net(data["clip"])
        right.append((out["kind"].argmax(-1) == data["kind"]).float().mean().item())
        ours.append(out["motion"].numpy())
        truth.append(data["motion"].numpy())
    a, b = np.concatenate(ours), np.concatenate(truth)
    return {
        "fault_named": round(float(np.mean(right)), 4),
        **{
            f"speed_correlation_{n}": round(pearson(a[:, i], b[:, i]), 4)
            for i, n in enumerate(("face", "lips", "hands"))
        },
        "samples": float(len(a)),
    }


def make_clip_task(data: Dataset) -> Task:
    """Task of the clip net."""

    def evaluate(net: nn.Module) -> dict[str, float]:
        return clip_accuracy(net, _clip_batcher(data, data.held_out))

    return Task(
        name="clip",
        build=lambda: ClipNet(len(CLIP_KINDS), 3),
        batch=_clip_batcher(data, data.train),
        loss=clip_loss,
        evaluate=evaluate,
        steps=1500,
        batch_size=8,
        learning_rate=2e-3,
        config={
            "kind": "ClipNet",
            "kinds": list(CLIP_KINDS),
            "motions": ["face", "lips", "hands"],
            "size": CLIP_SIZE,
        },
    )
