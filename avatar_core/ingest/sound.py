"""A file's sound by frames: how loud the voice is, and where there is one.

S samples at 16 kHz, T frames at 25 fps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, sosfiltfilt

from avatar_core.clock import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

SILENCE_DB = -65.0  # of full scale: no recording of a voice is quieter throughout
ABOVE_FLOOR_DB = 9.0
BELOW_VOICE_DB = 24.0
LEAST_SWING_DB = 6.0  # speech comes in syllables; hum, noise and much music are steadier


@dataclass(frozen=True)
class Sound:
    """samples (S,); loudness (T,) dB between 500 and 3500 Hz, what vowels and jaws move; voiced (T,): somebody speaks."""

    samples: np.ndarray
    loudness: np.ndarray
    voiced: np.ndarray

    def cut(self, start: int, stop: int, shift: int = 0) -> np.ndarray:
        """Samples (640 F,) of frames [start, stop), taken `shift` frames earlier, silence where there are none; 10 ms fades."""
        first, last = (start - shift) * SAMPLES_PER_FRAME, (stop - shift) * SAMPLES_PER_FRAME
        piece = np.zeros(last - first, np.float32)
        a, b = max(first, 0), min(last, len(self.samples))
        if b > a:
            piece[a - first : b - first] = self.samples[a:b]
        fade = np.linspace(0, 1, SAMPLE_RATE // 100, dtype=np.float32)
        piece[: len(fade)] *= fade
        piece[-len(fade) :] *= fade[::-1]
        return piece


def listen(samples: np.ndarray) -> Sound:
    """Measure a sound (S,)."""
    frames = -(-len(samples) // SAMPLES_PER_FRAME)
    padded = np.zeros(frames * SAMPLES_PER_FRAME, np.float64)
    padded[: len(samples)] = samples
    band = butter(4, (500, 3500), "bandpass", fs=SAMPLE_RATE, output="sos")
    wide = butter(4, (120, 4000), "bandpass", fs=SAMPLE_RATE, output="sos")
    loudness = _decibels(sosfiltfilt(band, padded))
    return Sound(np.asarray(samples, np.float32), loudness, _voiced(_decibels(sosfiltfilt(wide, padded))))


def _decibels(signal: np.ndarray) -> np.ndarray:
    power = np.square(signal.reshape(-1, SAMPLES_PER_FRAME)).mean(1)
    smooth = np.convolve(np.pad(power, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    return 10 * np.log10(np.maximum(smooth, 1e-9))


def _voiced(level: np.ndarray) -> np.ndarray:
    """Frames (T,) near the loud ones of their ten seconds and above the quiet ones, in stretches that rise and fall."""
    out = np.zeros(len(level), bool)
    for start in range(0, len(level), 10 * FPS):
        part = level[max(0, start - 5 * FPS) : start + 15 * FPS]
        loud, floor = np.quantile(part, 0.95), np.quantile(part, 0.05)
        if loud < SILENCE_DB or part.std() < LEAST_SWING_DB / 4 or loud - floor < LEAST_SWING_DB:
            continue
        own = level[start : start + 10 * FPS]
        out[start : start + 10 * FPS] = own > max(
            loud - BELOW_VOICE_DB, min(floor + ABOVE_FLOOR_DB, loud - 10)
        )
    grown = (
        np.convolve(out.astype(int), np.ones(5, int), "same") > 0
    )  # closures of p and t belong to the word
    return grown
