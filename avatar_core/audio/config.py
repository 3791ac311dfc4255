"""Numbers of the augmentation of audio features, and of takes."""

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


@dataclass(frozen=True)
class TakeConfig:
    """How many takes of each training clip beside the recording itself, and how far and how often they differ."""

    count: int = ranged(3, 0, 100)
    voice: float = ranged(0.75, 0, 1)  # probability
    whisper: float = ranged(0.1, 0, 1)
    pitch_octaves: float = ranged(0.35, 0, 1)  # at most, up or down
    formants: float = ranged(0.15, 0, 0.3)  # at most, share by which they rise or fall
    room: float = ranged(0.5, 0, 1)
    microphone: float = ranged(0.7, 0, 1)
    background: float = ranged(0.7, 0, 1)
    least_snr_db: float = ranged(3.0, -10, 40)
    most_snr_db: float = ranged(30.0, 0, 60)
    level_sd_db: float = ranged(3.0, 0, 20)
