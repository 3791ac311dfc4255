"""Clips as score teachers see and hear them.

Legend: T frames of a clip, H = W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar_core.clock import MEL_PER_FRAME
from avatar_core.io.rows import Rows

AUDIO_CONTEXT = 4  # frames of sound on either side of the clip


@dataclass(frozen=True)
class ScoreClip:
    """What is seen (T,H,W,3) uint8 and heard, log-mel (4T,M), of one clip; in memory, or on disk and read in training."""

    frames: np.ndarray | Rows
    log_mel: np.ndarray | Rows


def to_signed(frames: Tensor) -> Tensor:
    """uint8 (...,H,W,3) -> float (...,3,H,W) in [-1,1]."""
    return (frames.float() / 127.5 - 1).movedim(-1, -3)


def pad_mel(log_mel: np.ndarray | Rows) -> Tensor:
    """log_mel (4T,M) with AUDIO_CONTEXT frames of held edges, so that window [4 t : 4 (t + F + 2 context)] fits frame t."""
    edge = MEL_PER_FRAME * AUDIO_CONTEXT
    return torch.from_numpy(np.pad(np.asarray(log_mel, np.float32), ((edge, edge), (0, 0)), mode="edge"))
