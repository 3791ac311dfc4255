"""Numbers of the augmentation of audio features."""

from __future__ import annotations

from dataclasses import dataclass

from avatar_core.config import ranged


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges; deviations in nepers of power (1.0 = 4.3 dB)."""

    enabled: bool = True
    warp_low: float = ranged(0.86, 0.5, 1)
    warp_high: float = ranged(1.16, 1, 2)
    warp_probability: float = ranged(0.7, 0, 1)
    gain_sd: float = ranged(1.0)
    equaliser_sd: float = ranged(0.85)
    noise_probability: float = ranged(0.5, 0, 1)
    noise_below_speech_db: float = ranged(15.0, 0, 60)
