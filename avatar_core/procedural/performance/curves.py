"""Curves in time: smooth noise with a random past, envelopes, key poses joined by minimum-jerk moves.

T = pictures at 25 fps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from avatar_core.clock import FPS


def picture_times(num_frames: int) -> np.ndarray:
    """(T,) the middle of each picture in seconds."""
    return (np.arange(num_frames) + 0.5) / FPS


def smooth_noise(rng: np.random.Generator, num_frames: int, scale_s: float, channels: int = 1) -> np.ndarray:
    """(T, channels) stationary Gaussian noise, unit deviation, that changes over about `scale_s` seconds.

    It never repeats and has no phase of its own: unlike a sine of the clip's time it cannot be learnt by heart.
    """
    sigma = scale_s * FPS
    margin = int(np.ceil(4 * sigma))
    white = rng.standard_normal((num_frames + 2 * margin, channels))
    smooth = gaussian_filter1d(white, sigma, axis=0, mode="wrap")[margin : margin + num_frames]
    return smooth * np.sqrt(
        2 * sigma * np.sqrt(np.pi)
    )  # the filter's noise gain is 1 / sqrt(2 sigma sqrt(pi))


def smooth_step(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def bump(time: np.ndarray, peak_s: float, attack_s: float, hold_s: float, release_s: float) -> np.ndarray:
    """Rises to 1 at `peak_s`, holds, falls back."""
    rise = smooth_step(peak_s - attack_s, peak_s, time)
    return rise * (1.0 - smooth_step(peak_s + hold_s, peak_s + hold_s + release_s, time))


def minimum_jerk(t: np.ndarray) -> np.ndarray:
    """0..1 -> 0..1 with zero velocity and acceleration at both ends (Flash and Hogan 1985)."""
    t = np.clip(t, 0.0, 1.0)
    return t * t * t * (10.0 + t * (6.0 * t - 15.0))


@dataclass(frozen=True)
class Move:
    """Go from wherever one is to `target` (any shape) between start_s and end_s."""

    start_s: float
    end_s: float
    target: np.ndarray


def follow(moves: list[Move], first: np.ndarray, time: np.ndarray) -> np.ndarray:
    """(T, *shape): start at `first`, then each move in turn; moves must not overlap."""
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in zip(moves, moves[1:], strict=False)), "moves overlap"
    value = np.broadcast_to(first, (len(time), *first.shape)).astype(np.float64).copy()
    before = first
    for move in moves:
        share = minimum_jerk((time - move.start_s) / (move.end_s - move.start_s))
        value += share.reshape(-1, *[1] * first.ndim) * (move.target - before)
        before = move.target
    return value
