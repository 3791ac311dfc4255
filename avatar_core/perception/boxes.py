"""Where the critics look: square crops round a face, a mouth, a head or a hand, from keypoints.

Training and use share these rules, so a net sees at work what it saw in training. A box is (cx, cy, side) in
pixels, float64; a batch of boxes is (B,3).

Legend: B batch, F face keypoints, H hand keypoints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FACE_MARGIN = 1.4
HEAD_MARGIN = 2.1
HAND_MARGIN = 1.6
MOUTH_SHARE = 0.62  # of the face box's height before its margin


def _bounds(points: NDArray) -> tuple[NDArray, NDArray]:
    low, high = points.min(-2), points.max(-2)
    return (low + high) / 2, (high - low).max(-1)


def _box(centre: NDArray, side: NDArray) -> NDArray[np.float64]:
    return np.concatenate([centre, np.maximum(side, 2.0)[..., None]], -1).astype(np.float64)


def face_box(face: NDArray) -> NDArray[np.float64]:
    """Face landmarks (...,F,2) -> box round all of them."""
    centre, extent = _bounds(face)
    return _box(centre, FACE_MARGIN * extent)


def head_box(face: NDArray) -> NDArray[np.float64]:
    """Face landmarks (...,F,2) -> box that holds the hair as well."""
    centre, extent = _bounds(face)
    return _box(centre - [0.0, 0.12] * extent[..., None], HEAD_MARGIN * extent)


def hand_box(hand: NDArray) -> NDArray[np.float64]:
    """Hand points (...,H,2) -> box."""
    centre, extent = _bounds(hand)
    return _box(centre, HAND_MARGIN * extent)


def mouth_box(face: NDArray, lips: NDArray) -> NDArray[np.float64]:
    """Face (T,F,2) and lip (T,L,2) landmarks of a short clip -> one box (3,) that all its frames share.

    One box for the clip: the mouth must move in it, not the box with the mouth.
    """
    _, extent = _bounds(face)
    return _box(lips.mean(axis=(0, 1)), np.asarray(MOUTH_SHARE * np.median(extent)))
