"""Do these lips make this sound? A measure without training: how the openings of the mouth go with the loudness of the voice.

For every lag, the mean of three correlations with the loudness between 500 and 3500 Hz: the jaw's opening, the lips' opening and
the speed of the lips. It is weak: the peak of a real talker is .2 to .4, so it is judged against the same curve at lags of one to
four seconds, where nothing can correspond, and over all that a file shows of a person. It tells a shifted sound or another's voice
from the right one in ten seconds or so; for a single short clip it proves nothing, and says so.

T frames at 25 fps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FAR = (25, 100)  # lags that serve as what chance gives


@dataclass(frozen=True)
class Sync:
    """lag: frames that the lips come after the sound, where they go together best; peak: correlation there; sure: how many
    standard deviations of chance that is; near, near_sure: the same for the best small lag; seconds: compared."""

    lag: int
    peak: float
    sure: float
    near: float
    near_lag: int
    near_sure: float
    seconds: float


def measure(
    parts: list[tuple[np.ndarray, np.ndarray]], loudness: np.ndarray, near: int, search: int
) -> Sync | None:
    """parts: (frames (F,) rising and without gaps, openings (F,2) of lips and jaw) for each stretch of a file; loudness (T,) of
    the file's sound. None when there is too little to compare.
    """
    lags = np.arange(-FAR[1], FAR[1] + 1)
    total, weight = np.zeros(len(lags)), np.zeros(len(lags))
    frames = 0
    for at, openings in parts:
        if len(at) < 25:
            continue
        frames += len(at)
        speed = np.abs(np.gradient(openings[:, 0]))
        for curve in (openings[:, 0], openings[:, 1], speed):
            for k, lag in enumerate(lags):
                r, n = _correlation(curve, loudness, at - lag)
                total[k] += r * n
                weight[k] += n
    if frames < 25:
        return None
    curve = total / np.maximum(weight, 1)
    curve = np.convolve(np.pad(curve, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    far = curve[(np.abs(lags) >= FAR[0]) & (weight > 0.5 * weight.max())]
    if len(far) < 20:  # a short file: chance is what independent frames of speech would give
        centre, spread = 0.0, 1 / np.sqrt(max(frames / 6, 1))
    else:
        centre, spread = float(far.mean()), max(float(far.std()), 0.5 / np.sqrt(max(frames / 3, 1)))
    inside = np.flatnonzero(np.abs(lags) <= search)
    close = np.flatnonzero(np.abs(lags) <= near)
    best, best_close = inside[curve[inside].argmax()], close[curve[close].argmax()]
    return Sync(
        lag=int(lags[best]),
        peak=float(curve[best]),
        sure=float((curve[best] - centre) / spread),
        near=float(curve[best_close]),
        near_lag=int(lags[best_close]),
        near_sure=float((curve[best_close] - centre) / spread),
        seconds=frames / 25,
    )


def _correlation(curve: np.ndarray, loudness: np.ndarray, at: np.ndarray) -> tuple[float, int]:
    """Of the frames whose counterpart lies within the sound, and how many they are."""
    inside = (at >= 0) & (at < len(loudness))
    if inside.sum() < 20:
        return 0.0, 0
    a, b = curve[inside] - curve[inside].mean(), loudness[at[inside]]
    b = b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return (float(a @ b) / size if size > 1e-9 else 0.0), int(inside.sum())
