"""Vocal effort: a synthesiser speaks every syllable about as loud as the last, people do not."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

from avatar_core.clock import SAMPLE_RATE

KNOT_S = 0.45
SD_DB = 5.0
MOST_DB = 12.0


def with_effort(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S,) float32 that swells and fades by about 5 dB from word to word; never beyond full scale, in steps of 16 bits."""
    knots = 2 + int(np.ceil(len(audio) / SAMPLE_RATE / KNOT_S))
    curve = CubicSpline(np.arange(knots), SD_DB * rng.standard_normal(knots))
    decibels = np.clip(curve(np.arange(len(audio)) / SAMPLE_RATE / KNOT_S), -MOST_DB, MOST_DB)
    out = audio * 10 ** (decibels / 20)
    out *= min(1.0, 0.98 / (np.abs(out).max(initial=0) + 1e-9))
    return (np.round(out * 32767) / 32768 + 0.0).astype(np.float32)
