"""Training of the keypoint critics: whole body (192 px), face (128 px) and hand (96 px).

Loss: L1 on soft-argmax positions, cross-entropy of the heatmap against the four cells round the truth, the
vertical opening of the lips and lids as a difference of points (what fits and lip metrics read), and the
confidence as P(error < radius), learnt on the net's own errors.

Legend: B batch, K the net's points, S input pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from avatar_core.perception import boxes
from avatar_core.perception import warp as A
from avatar_core.perception.layout import LAYOUT
from avatar_core.perception.nets import KeypointNet
from avatar_core.recipes.critics.dataset import FLAT, Dataset
from avatar_core.recipes.critics.scores import pearson, roc_area
from avatar_core.recipes.critics.task import Task

SIZES = {"body": 192, "face": 128, "hand": 96}
STRIDES = {"body": 8, "face": 4, "hand": 4}
RADIUS = {"body": 6.0, "face": 4.0, "hand": 6.0}  # px of the input: within it a point counts as found
STEPS = {"body": 2400, "face": 3600, "hand": 1500}


def _backdrop(image: NDArray, alpha: NDArray, rng: np.random.Generator) -> NDArray:
    """Put the crop (S,S,3) on a random backdrop, or leave its grey."""
    if rng.random() < 0.2:
        return image
    return A.composite(image, alpha, FLAT / 255, A.background(rng, image.shape[0]))


def _cut(
    frame: tuple[NDArray, NDArray, NDArray], matrix: NDArray, size: int, rng: np.random.Generator, flip: bool
) -> tuple[NDArray, NDArray]:
    """Crop image+alpha by `matrix`, mirror it if told, change the backdrop -> image (S,S,3), points (K,2)."""
    rgb, alpha, xy = frame
    # Renders that end at the image border (waist-up) are continued by their edge half the time.
    flat, none = ((FLAT,) * 3, (0,)) if rng.random() < 0.5 else (None, None)
    # Resampled as bytes: four times cheaper than floats, and what a video decoder gives anyway.
    color = A.warp(np.asarray(rgb), matrix, size, flat)
    cover = A.warp(np.asarray(alpha), matrix, size, none)
    crop = np.concatenate([color, cover[..., None]], -1).astype(np.float32) * np.float32(1 / 255)
    points = A.apply_matrix(matrix, xy.astype(float))
    if flip:
        crop = np.ascontiguousarray(crop[:, ::-1])
        points[:, 0] = size - points[:, 0]
    return _backdrop(crop[..., :3], crop[..., 3], rng), points


def _face_sample(arrays: dict[str, NDArray], rng: np.random.Generator, size: int) -> tuple[NDArray, NDArray]:
    if rng.random() < 0.02:
        return A.background(rng, size), np.full((len(LAYOUT.face), 2), -1e4)
    kind = "face" if rng.random() < 0.5 else "talk"
    index = int(rng.integers(len(arrays[f"{kind}_rgb"])))
    frame = arrays[f"{kind}_rgb"][index], arrays[f"{kind}_alpha"][index], arrays[f"{kind}_xy"][index]
    cx, cy, side = boxes.face_box(frame[2][LAYOUT.face])
    shift = rng.uniform(-0.1, 0.1, 2) * side
    matrix = A.crop_matrix(
        np.array([cx, cy]) + shift, side * np.exp(rng.uniform(-0.2, 0.22)), size, rng.normal(0, 0.12)
    )
    flip = rng.random() < 0.5
    image, points = _cut(frame, matrix, size, rng, flip)
    return image, (points[LAYOUT.mirror] if flip else points)[LAYOUT.face]


def _hand_sample(arrays: dict[str, NDArray], rng: np.random.Generator, size: int) -> tuple[NDArray, NDArray]:
    if rng.random() < 0.04:
        return _no_hand(arrays, rng, size), np.full((21, 2), -1e4)
    # Hands of whole-person frames are what the net meets most: small and soft.
    kind = "hand" if rng.random() < 0.6 else "body"
    looks = 0
    while True:
        looks += 1
        index = int(rng.integers(len(arrays[f"{kind}_rgb"])))
        xy = arrays[f"{kind}_xy"][index]
        pixels = arrays[f"{kind}_rgb"].shape[1]
        left = bool(arrays["hand_left"][index]) if kind == "hand" else rng.random() < 0.5
        hand = xy[LAYOUT.hand_left if left else LAYOUT.hand_right]
        extent = float(np.ptp(hand, axis=0).max())
        if looks == 8 or ((hand > 0).all() and (hand < pixels).all() and extent > 8):
            break
    cx, cy, side = boxes.hand_box(hand)
    shift = rng.uniform(-0.12, 0.12, 2) * side
    matrix = A.crop_matrix(
        np.array([cx, cy]) + shift, side * np.exp(rng.uniform(-0.25, 0.3)), size, rng.normal(0, 0.3)
    )
    frame = arrays[f"{kind}_rgb"][index], arrays[f"{kind}_alpha"][index], xy
    image, points = _cut(frame, matrix, size, rng, left)
    return image, points[LAYOUT.hand_left if left else LAYOUT.hand_right]


def _no_hand(arrays: dict[str, NDArray], rng: np.random.Generator, size: int) -> NDArray:
    """A crop of head, clothes or backdrop that shows no hand."""
    index = int(rng.integers(len(arrays["talk_rgb"])))
    frame = arrays["talk_rgb"][index], arrays["talk_alpha"][index], arrays["talk_xy"][index]
    pixels = frame[0].shape[0]
    matrix = A.crop_matrix(rng.uniform(0, pixels, 2), rng.uniform(0.2, 0.8) * pixels, size)
    return _cut(frame, matrix, size, rng, False)[0]


def _body_sample(arrays: dict[str, NDArray], rng: np.random.Generator, size: int) -> tuple[NDArray, NDArray]:
    if rng.random() < 0.03:
        return A.background(rng, size), np.full((len(LAYOUT.body_net), 2), -1e4)
    kind = str(rng.choice(["body", "face", "talk"], p=[0.62, 0.24, 0.14]))
    index = int(rng.integers(len(arrays[f"{kind}_rgb"])))
    frame = arrays[f"{kind}_rgb"][index], arrays[f"{kind}_alpha"][index], arrays[f"{kind}_xy"][index]
    pixels = frame[0].shape[0]
    side = pixels * np.exp(rng.uniform(-0.35, 0.15) if kind == "body" else rng.uniform(-0.1, 0.45))
    shift = rng.uniform(-0.1, 0.1, 2) * pixels
    angle = rng.normal(0, 0.05)
    matrix = A.crop_matrix(np.full(2, pixels / 2) + shift, side, size, angle)
    flip = rng.random() < 0.5
    image, points = _cut(frame, matrix, size, rng, flip)
    return image, (points[LAYOUT.mirror] if flip else points)[LAYOUT.body_net]


_SAMPLERS: dict[str, Callable] = {"face": _face_sample, "hand": _hand_sample, "body": _body_sample}


def keypoint_loss(
    net: KeypointNet, batch: dict[str, Tensor], weights: Tensor, pairs: Tensor, radius: float
) -> tuple[Tensor, dict[str, float]]:
    """See the module's first lines. batch: image (B,3,S,S), xy (B,K,2) input pixels."""
    xy, confidence, logits = net(batch["image"])
    truth = batch["xy"]
    size, stride = net.size, net.stride
    inside = ((truth > 0) & (truth < size)).all(-1)
    weight = weights * inside
    error = (xy - truth).abs().sum(-1)
    position = (torch.where(inside, error, error.new_zeros(())) * weights).sum() / weight.sum().clamp_min(1)
    # Cross-entropy against the truth spread bilinearly over its four cells: the soft-argmax of that target is exact.
    cells = size // stride
    place = (truth / stride - 0.5).clamp(0, cells - 1.001)
    low = place.floor()
    part = place - low
    index = (low[..., 1] * cells + low[..., 0]).long()
    corners = torch.stack([index, index + 1, index + cells, index + cells + 1], -1)
    px, py = part[..., 0], part[..., 1]
    share = torch.stack([(1 - px) * (1 - py), px * (1 - py), (1 - px) * py, px * py], -1)
    cross = torch.logsumexp(logits, -1) - (logits.gather(-1, corners) * share).sum(-1)
    heat = (cross * weight).sum() / weight.sum().clamp_min(1)
    found = inside & ((xy.detach() - truth).norm(dim=-1) < radius)
    trust = F.binary_cross_entropy_with_logits(confidence, found.float())
    loss = position + 0.3 * heat + 0.5 * trust
    numbers = {"px": float(position.detach()), "ce": float(heat.detach()), "bce": float(trust.detach())}
    if len(pairs):
        opening = (xy[:, pairs[:, 0]] - xy[:, pairs[:, 1]]) - (truth[:, pairs[:, 0]] - truth[:, pairs[:, 1]])
        opening = opening[..., 1].abs().mean()
        loss = loss + 2.0 * opening
        numbers["opening"] = float(opening.detach())
    return loss, numbers


def _batcher(
    name: str, data: Dataset, folders: tuple[Path, ...]
) -> Callable[[np.random.Generator, int], dict]:
    def batch(rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        images, points = [], []
        for _ in range(count):
            arrays = data.arrays[folders[int(rng.integers(len(folders)))]]
            image, xy = _SAMPLERS[name](arrays, rng, SIZES[name])
            images.append(A.photometric(image, rng))
            points.append(xy)
        return {
            "image": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
            "xy": torch.from_numpy(np.stack(points).astype(np.float32)),
        }

    return batch


@torch.no_grad()
def keypoint_accuracy(
    name: str,
    net: nn.Module,
    batch: Callable[[np.random.Generator, int], dict[str, Tensor]],
    rounds: int = 20,
) -> dict[str, float]:
    """Errors in % of the face's height (face), the hand's extent (hand) or the crop's side (body), over augmented crops.

    `found` is the share of points inside the image within the training radius; `confidence_auc` says how well the
    confidence tells found points from lost ones; for the face also the lips' error and the aperture's correlation
    and slope over all crops.
    """
    errors, insides, trusts, scales, ours, truths = [], [], [], [], [], []
    points = LAYOUT.points_of(name)
    pairs = (
        [[int(np.flatnonzero(points == k)[0]) for k in pair] for pair in LAYOUT.lip_pairs]
        if name == "face"
        else []
    )
    for k in range(rounds):
        data = batch(np.random.default_rng([91, k]), 32)
        xy, confidence, _ = net(data["image"])
        truth = data["xy"]
        shown = (
            (truth > -5000).any(-1).any(-1)
        )  # crops of backdrop alone count for the confidence, not for errors
        inside = ((truth > 0) & (truth < data["image"].shape[-1])).all(-1)
        errors.append((xy - truth).norm(dim=-1).numpy())
        insides.append(inside.numpy())
        trusts.append(torch.sigmoid(confidence).numpy())
        if name == "body":
            scales.append(np.full(len(truth), float(data["image"].shape[-1])))
        else:
            scales.append((truth.amax(1) - truth.amin(1)).amax(-1).clamp_min(1).numpy())
        if pairs:
            where = torch.tensor(pairs)
            extent = (truth.amax(1) - truth.amin(1)).amax(-1)
            gap = [(p[:, where[:, 0]] - p[:, where[:, 1]]).norm(dim=-1).mean(1) / extent for p in (xy, truth)]
            ours.append(gap[0][shown].numpy())
            truths.append(gap[1][shown].numpy())
    error, inside, trust = np.concatenate(errors), np.concatenate(insides), np.concatenate(trusts)
    scale = np.concatenate(scales)[:, None]
    percent = 100 * error / scale
    found = inside & (error < RADIUS[name])
    out = {
        "mean_error_percent": float(percent[inside].mean()),
        "median_error_percent": float(np.median(percent[inside])),
        "found": float(found[inside].mean()),
        "confidence_auc": roc_area(trust[found], trust[~found]),
        "mean_confidence": float(trust[inside].mean()),
        "samples": float(len(error)),
    }
    if pairs:
        lips = [int(np.flatnonzero(points == k)[0]) for k in LAYOUT.lips]
        out["lips_error_percent"] = float(percent[:, lips][inside[:, lips]].mean())
        a, b = np.concatenate(ours), np.concatenate(truths)
        out["aperture_correlation"] = pearson(a, b)
        out["aperture_slope"] = float(np.polyfit(b, a, 1)[0])
    return {k: round(v, 4) for k, v in out.items()}


def make_keypoint_task(name: str, data: Dataset) -> Task:
    """Task of the net `name`: body, face or hand."""
    points = LAYOUT.points_of(name)
    weights = torch.ones(len(points))
    pairs = torch.zeros(0, 2, dtype=torch.long)
    if name == "body":  # hand points have a net of their own: here they only place its crop
        weights[len(LAYOUT.body) : -len(LAYOUT.coarse)] = 0.5
    if name == "face":
        place = {int(k): i for i, k in enumerate(points)}
        weights[[place[k] for k in LAYOUT.lips]] = 3.0
        weights[[place[k] for k in LAYOUT.eyelids]] = 2.0
        pairs = torch.tensor([[place[a], place[b]] for a, b in (*LAYOUT.lip_pairs, *LAYOUT.lid_pairs)])

    def evaluate(net: nn.Module) -> dict[str, float]:
        return keypoint_accuracy(name, net, _batcher(name, data, data.held_out))

    return Task(
        name=name,
        build=lambda: KeypointNet(len(points), SIZES[name], STRIDES[name]),
        batch=_batcher(name, data, data.train),
        loss=lambda net, batch: keypoint_loss(net, batch, weights, pairs, RADIUS[name]),  # type: ignore[arg-type]
        evaluate=evaluate,
        steps=STEPS[name],
        batch_size=16,
        learning_rate=2e-3,
        config={
            "kind": "KeypointNet",
            "points": [LAYOUT.names[i] for i in points],
            "size": SIZES[name],
            "stride": STRIDES[name],
            "radius_px": RADIUS[name],
        },
    )
