"""Percentile bootstrap intervals over clips (Efron 1979)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Interval:
    """Mean (or statistic) with its 95% percentile interval; equal ends for a single sample."""

    value: float
    low: float
    high: float
    samples: int


def bootstrap(
    values: NDArray | list[float],
    statistic: Callable[[NDArray], float] = lambda x: float(np.mean(x)),
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Samples (N,...), resampled along the first axis -> Interval. NaN samples are left out; all NaN gives NaN.

    Locked by test_bootstrap_covers_and_is_repeatable.
    """
    data = np.asarray(values, np.float64)
    data = data[~np.isnan(data.reshape(len(data), -1)).any(1)] if len(data) else data
    if len(data) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng([seed, 417])
    picks = rng.integers(0, len(data), (draws, len(data)))
    results = np.array([statistic(data[p]) for p in picks])
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(results, [tail, 100 - tail])
    return Interval(float(statistic(data)), float(low), float(high), len(data))
