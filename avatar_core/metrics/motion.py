"""How much and how smoothly things move: slow motion energy, acceleration ratio, beat consistency.

Plain speed ratios are flattered by jitter, so energy is taken below 3 Hz (zero-phase Butterworth) and the
acceleration ratio stands beside it. Beat consistency is Li et al. 2022 (BC; also "beat alignment", Li et al.
2021): motion beats are local minima of speed, audio beats are onsets, sigma 0.1 s.

Legend: T frames, J points, M mel bands, L log-mel frames (100 Hz).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import find_peaks

from avatar_core.geometry.filters import CUTOFF_HZ, slow_velocity


def _points(x: NDArray) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    if x.ndim == 2:
        x = x[:, None]
    if x.ndim != 3 or len(x) < 4:
        raise ValueError(f"motion: expected (T,J,C) or (T,C) with T >= 4, found {x.shape}")
    return x


def slow_energy(points: NDArray, fps: float = 25.0, cutoff: float = CUTOFF_HZ) -> float:
    """Positions (T,J,3) or (T,3) -> mean squared speed below `cutoff` Hz, (unit/s)^2.

    Locked by test_jitter_raises_acceleration_but_not_slow_energy.
    """
    return float((slow_velocity(_points(points), fps, cutoff) ** 2).sum(-1).mean())


def acceleration(points: NDArray, fps: float = 25.0) -> float:
    """Positions (T,J,3) or (T,3) -> mean size of the second difference, unit/s^2: where jitter shows.

    Locked by test_jitter_raises_acceleration_but_not_slow_energy.
    """
    x = _points(points)
    return float(np.linalg.norm(np.diff(x, n=2, axis=0), axis=-1).mean() * fps**2)


def ratio(ours: float, truth: float) -> float:
    """ours / truth; NaN when the truth does not move.

    Locked by test_jitter_raises_acceleration_but_not_slow_energy.
    """
    return ours / truth if truth > 0 else float("nan")


def motion_beats(points: NDArray, fps: float = 25.0) -> NDArray[np.float64]:
    """Positions (T,J,3) -> times (s) of local minima of the mean speed that stand out from their surroundings.

    Locked by test_beats.
    """
    x = _points(points)
    speed = np.linalg.norm(np.diff(x, axis=0), axis=-1).mean(-1) * fps
    if speed.max() <= 0:
        return np.zeros(0)
    peaks, _ = find_peaks(-speed, prominence=0.05 * float(speed.max()), distance=3)
    # Speed k lives between frames k and k+1; frames are shown from k/fps on, centre half a frame later.
    return (peaks + 1.0) / fps


def audio_beats(log_mel: NDArray) -> NDArray[np.float64]:
    """Log-mel (L,M) at 100 Hz -> onset times (s): peaks of the half-wave rectified spectral flux.

    Locked by test_beats.
    """
    mel = np.asarray(log_mel, np.float64)
    flux = np.maximum(np.diff(mel, axis=0), 0).mean(1)
    if len(flux) < 3 or flux.max() <= 0:
        return np.zeros(0)
    flux = np.convolve(flux, np.ones(5) / 5, mode="same")
    peaks, _ = find_peaks(flux, prominence=0.25 * float(flux.max()), distance=12)
    return (peaks + 1.0) / 100.0


def beat_consistency(motion: NDArray, audio: NDArray, sigma: float = 0.1) -> float:
    """Beat times (s) -> mean over motion beats of exp(-d^2 / 2 sigma^2), d to the nearest audio beat; NaN without.

    Locked by test_beats.
    """
    if len(motion) == 0 or len(audio) == 0:
        return float("nan")
    distance = np.abs(np.asarray(motion)[:, None] - np.asarray(audio)[None]).min(1)
    return float(np.exp(-(distance**2) / (2 * sigma**2)).mean())
