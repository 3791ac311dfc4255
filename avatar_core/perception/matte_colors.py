"""Colours of the person and of what is behind, from a picture and its alpha: image = alpha F + (1 - alpha) B.

Coarse to fine: both are smooth where nothing else is known, so each also goes on where it is hidden.

Legend: H W pixels.
Source: Germer et al., "Fast Multi-Level Foreground Estimation" (ICPR 2020).
"""

from __future__ import annotations

import cv2
import numpy as np

SMOOTH = 1e-4  # weight of equal neighbours
ALONG = 1.0  # the same, times the difference of alpha: across an outline colours go on
FEW_PX, MANY_ROUNDS, FEW_ROUNDS = 64, 12, 3


def separate_colors(image: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H,W,3) in [0,1], alpha (H,W) -> person's colours, background's colours, both (H,W,3) float32."""
    height, width = alpha.shape
    levels = int(np.ceil(np.log2(max(height, width))))
    front = back = np.full((1, 1, 3), 0.5, np.float32)
    solid = alpha[..., None] > 0.9
    empty = alpha[..., None] < 0.1
    front = (image * solid).sum((0, 1), keepdims=True) / max(1, solid.sum())
    back = (image * empty).sum((0, 1), keepdims=True) / max(1, empty.sum())
    for level in range(1, levels + 1):
        share = level / levels
        size = (max(1, round(width**share)), max(1, round(height**share)))
        picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        a = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
        front, back = (cv2.resize(c, size, interpolation=cv2.INTER_LINEAR) for c in (front, back))
        front, back = (c.reshape(*a.shape, 3).astype(np.float32) for c in (front, back))
        weights = [SMOOTH + ALONG * np.abs(a - _shift(a, *step)) for step in _STEPS]
        total = sum(weights)
        xx, yy, xy = a * a + total, (1 - a) ** 2 + total, a * (1 - a)
        determinant = xx * yy - xy * xy
        for _ in range(MANY_ROUNDS if max(size) <= FEW_PX else FEW_ROUNDS):
            x = a[..., None] * picture
            y = picture - x
            for weight, step in zip(weights, _STEPS, strict=True):
                x = x + weight[..., None] * _shift(front, *step)
                y = y + weight[..., None] * _shift(back, *step)
            front = np.clip((yy[..., None] * x - xy[..., None] * y) / determinant[..., None], 0, 1)
            back = np.clip((xx[..., None] * y - xy[..., None] * x) / determinant[..., None], 0, 1)
    return front, back


_STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def _shift(a: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """a moved by a pixel, its border repeated."""
    padded = np.pad(a, ((1, 1), (1, 1)) + ((0, 0),) * (a.ndim - 2), mode="edge")
    return padded[1 + dy : 1 + dy + a.shape[0], 1 + dx : 1 + dx + a.shape[1]]
