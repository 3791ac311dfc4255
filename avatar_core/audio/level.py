"""One loudness for every recording: the level of its active parts, and the gain that brings it to `TARGET_DB`.

Quiet recordings are raised by at most `MOST_GAIN_DB`, and what never rises above `FLOOR_DB` holds no voice and is left as it is, so
that neither digital silence nor an empty room becomes as loud as speech.

S samples at 16 kHz; decibels below full scale, of the mean power.
"""

from __future__ import annotations

import numpy as np

from avatar_core.clock import SAMPLE_RATE

TARGET_DB = -20.0
MOST_GAIN_DB = 60.0
FLOOR_DB = -84.0
_FRAME = 320  # samples: 20 ms
_ACTIVE_DB = 20.0  # frames this far below the loudest are active
_LOUDEST = 0.98  # quantile: a click is not the voice
_RUMBLE_HZ = 100.0


def voice_level(audio: np.ndarray) -> float:
    """Mean power of the active 20 ms frames of (S,) in dB, without what lies below 100 Hz; -inf where none is above the floor."""
    frames = _without_rumble(audio)
    power = (frames.astype(np.float64) ** 2).mean(1)
    heard = power[power > 10 ** (FLOOR_DB / 10)]
    if not len(heard):
        return -np.inf
    loudest = np.quantile(heard, _LOUDEST)
    active = heard[heard > loudest * 10 ** (-_ACTIVE_DB / 10)]
    return float(10 * np.log10(np.minimum(active, loudest).mean()))


def level_gain_db(audio: np.ndarray) -> float:
    """What brings a recording's voice to `TARGET_DB`; 0 where there is nothing to bring."""
    level = voice_level(audio)
    return 0.0 if level == -np.inf else min(TARGET_DB - level, MOST_GAIN_DB)


def to_level(audio: np.ndarray) -> np.ndarray:
    """The recording (S,) at the level that the features are made for, float32; it may exceed full scale."""
    return (np.asarray(audio, np.float32) * np.float32(10 ** (level_gain_db(audio) / 20))).astype(np.float32)


def _without_rumble(audio: np.ndarray) -> np.ndarray:
    """(frames,320) of the sound less its moving mean over a hundredth of a second."""
    audio = np.asarray(audio, np.float32)
    width = int(SAMPLE_RATE / _RUMBLE_HZ)
    sums = np.cumsum(np.pad(audio, (width // 2 + 1, width // 2)), dtype=np.float64)
    clean = audio - (sums[width:] - sums[:-width])[: len(audio)] / width
    return np.pad(clean, (0, -len(clean) % _FRAME)).reshape(-1, _FRAME)
