"""SyncC and SyncD from two-stream embeddings, with SyncNet's search over offsets.

Source: Chung and Zisserman 2016, "Out of time: automated lip sync in the wild", and the way it is commonly run:
the L2 distance of each video window to the audio windows of +-15 frames is averaged over the clip; SyncD is the
least of the 31 means, SyncC is their median minus the least, the offset is where the least stands.

Legend: T windows (one a frame), E embedding.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

REACH = 15


@dataclasses.dataclass(frozen=True)
class SyncScores:
    """confidence (SyncC, higher is better), distance (SyncD, lower is better), offset in frames (> 0: audio late)."""

    confidence: float
    distance: float
    offset: int
    curve: NDArray[np.float64]


def sync_scores(video: NDArray, audio: NDArray, reach: int = REACH) -> SyncScores:
    """Embeddings (T,E), (T,E) of the same frames -> scores. Raises ValueError when T <= reach.

    Locked by test_sync_finds_the_offset_and_shift_keeps_the_distance.
    """
    if video.shape != audio.shape or video.ndim != 2:
        raise ValueError(f"sync embeddings: expected equal (T,E), found {video.shape} and {audio.shape}")
    count = len(video)
    if count <= reach:
        raise ValueError(f"sync embeddings: expected more than {reach} windows, found {count}")
    squares = (video**2).sum(1)[:, None] + (audio**2).sum(1)[None] - 2 * video @ audio.T
    distance = np.sqrt(np.maximum(squares, 0).astype(np.float64))
    curve = np.array([np.diagonal(distance, offset=k).mean() for k in range(-reach, reach + 1)])
    least = int(curve.argmin())
    return SyncScores(float(np.median(curve) - curve[least]), float(curve[least]), least - reach, curve)
