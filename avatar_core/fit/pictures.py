"""The pictures that a fit is compared with: frames, foreground, background, and how much every pixel counts.

Shapes: T frames, H x W pixels, M keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar_core.fit.config import FitWeights
from avatar_core.perception.matte_room import fill_room
from avatar_core.template.landmarks import indices

AROUND = 0.06  # of the picture's size about the person, where drawings are looked at too
GRID = 4  # px: windows of the structure lie as in the whole picture
OUTLINE = 0.012  # of the height: how far off an estimated mask's outline may be
_CAP = 1e-6  # mean squared error of 60 dB, reported for equal pictures


Box = tuple[int, int, int, int]  # left, top, width, height, px


@dataclass(frozen=True)
class Pictures:
    """target (T,3,H,W), foreground (T,H,W), background (3,H,W), all float in [0,1]; weight (T,H,W) of the pixels in the
    losses; face and hands (T,H,W) bool: their crops; box: where the person is in some frame, None for everywhere."""

    target: Tensor
    foreground: Tensor
    background: Tensor
    weight: Tensor
    face: Tensor
    hands: Tensor
    box: Box | None = None

    def to(self, device: torch.device | str) -> Pictures:
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)})

    def of_person(self) -> Pictures:
        """What lies in the box alone."""
        if self.box is None:
            return self
        x, y, w, h = self.box
        cut = {
            k: v[..., y : y + h, x : x + w].contiguous()
            for k, v in vars(self).items()
            if isinstance(v, Tensor)
        }
        return replace(self, **cut)


def make_pictures(
    frames: np.ndarray, masks: np.ndarray, xy: np.ndarray, confidence: np.ndarray, weights: FitWeights
) -> Pictures:
    """From frames (T,H,W,3) uint8, masks (T,H,W) uint8, keypoints xy (T,M,2) px and confidence (T,M)."""
    shape = masks.shape
    face = crops(shape, xy, confidence, indices("eyelids.", "brows.", "nose.", "lips_", "jaw."), 0.12)
    hands = crops(shape, xy, confidence, indices("hand.wrist.L", *_fingers("L")), 0.25)
    hands |= crops(shape, xy, confidence, indices("hand.wrist.R", *_fingers("R")), 0.25)
    weight = 1 + weights.face * face * _share(face) + weights.hand * hands * _share(hands)
    return Pictures(
        target=torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255,
        foreground=torch.from_numpy(masks).float() / 255,
        background=torch.from_numpy(clip_background(frames, masks).transpose(2, 0, 1).copy()),
        weight=torch.from_numpy(weight.astype(np.float32)),
        face=torch.from_numpy(face),
        hands=torch.from_numpy(hands),
        box=person_box(masks),
    )


def person_box(masks: np.ndarray) -> Box:
    """Where masks (T,H,W) show somebody in some frame, and AROUND beyond it, on the grid of GRID px."""
    height, width = masks.shape[1:]
    ends = []
    for shown, size in ((masks.any((0, 1)), width), (masks.any((0, 2)), height)):
        at, more = np.flatnonzero(shown), AROUND * size
        first = max(int(at[0] - more), 0) // GRID * GRID
        ends.append((first, min(-int(-(at[-1] + 1 + more - first) // GRID) * GRID, size - first)))
    (left, w), (top, h) = ends
    return left, top, w, h


def clip_background(frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(H,W,3) float32: what a fixed camera sees where nobody stands, filled in from there where somebody always does."""
    free = outside(masks).astype(np.float32)[..., None]
    count = free.sum(0)
    mean = (frames.astype(np.float32) / 255 * free).sum(0) / np.maximum(count, 1)
    return fill_room(mean, count[..., 0] == 0)


def outside(masks: np.ndarray) -> np.ndarray:
    """(T,H,W) bool: pixels that surely do not show the person of masks (T,H,W)."""
    side = 2 * max(1, round(OUTLINE * masks.shape[1])) + 1
    return np.stack(
        [cv2.dilate((m > 0).astype(np.uint8), np.ones((side, side), np.uint8)) == 0 for m in masks]
    )


def crops(
    shape: tuple, xy: np.ndarray, confidence: np.ndarray, points: np.ndarray, margin: float
) -> np.ndarray:
    """(T,H,W) bool: the bounding box of trusted keypoints `points`, grown by `margin` of its size; empty if too few."""
    out = np.zeros(shape, bool)
    for t in range(shape[0]):
        seen = confidence[t, points] > 0.3
        if seen.mean() < 0.5:
            continue
        p = xy[t, points[seen]]
        low, high = p.min(0), p.max(0)
        grow = margin * (high - low).max()
        x0, y0 = np.maximum(np.floor(low - grow), 0).astype(int)
        x1, y1 = np.ceil(high + grow).astype(int)
        out[t, y0:y1, x0:x1] = True
    return out


def frame_psnr(square: Tensor, mask: Tensor) -> np.ndarray:
    """Squared error (T,H,W) (mean of the channels) and mask (T,H,W) bool -> dB (T,), NaN where the mask is empty."""
    count = mask.sum((1, 2))
    error = (square * mask).sum((1, 2)) / count.clamp_min(1)
    return torch.where(count > 0, -10 * torch.log10(error.clamp_min(_CAP)), torch.nan).double().cpu().numpy()


def _share(mask: np.ndarray) -> np.ndarray:
    """(T,1,1) pixels of the picture per pixel of a crop, at most 40: a mean over the crop then weighs as much."""
    area = mask.sum((1, 2))
    return np.minimum(mask[0].size / np.maximum(area, 1), 40.0)[:, None, None]


def _fingers(side: str) -> tuple[str, ...]:
    return tuple(f"hand.finger{f}-{joint}.{side}" for f in range(1, 6) for joint in ("1", "2", "3", "tip"))
