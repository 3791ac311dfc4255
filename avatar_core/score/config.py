"""Numbers of the embedded score network and its training."""

from __future__ import annotations

from dataclasses import dataclass

from avatar_core.config import derived, list_of, ranged


@dataclass(frozen=True)
class ScoreConfig:
    size: int = ranged(32, 16, 512)  # pixels
    frames: int = ranged(8, 1, 256)
    channels: list[int] = list_of(24, 48, 72)  # at size/2, size/4, size/8
    audio_channels: int = ranged(64, 1)
    heads: int = ranged(4, 1)
    batch: int = ranged(4, 1)
    steps: int = ranged(700, 1)
    learning_rate: float = ranged(1e-3, 1e-08, 1)
    drop: float = ranged(0.1, 0, 1)  # share of clips trained without sound
    ema: float = ranged(0.98, 0, 1)
    checkpoint_every: int = ranged(100, 1)
    seed: int = derived(0)
