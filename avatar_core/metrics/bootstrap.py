"""Percentile bootstrap intervals (Efron 1979), over groups: clips of one person are not independent of each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Interval:
    """Mean (or statistic) with its 95% percentile interval; equal ends for a single group."""

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
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """Samples (N,...), resampled along the first axis -> Interval. NaN samples are left out; all NaN gives NaN.

    groups (N,): whole groups are drawn instead of samples (the cluster bootstrap, Davison and Hinkley 1997, section 3.8): people
    instead of clips. Locked by test_bootstrap_covers_and_is_repeatable, test_bootstrap_over_groups_is_wider.
    """
    data = np.asarray(values, np.float64)
    labels = np.unique([str(g) for g in groups], return_inverse=True)[1] if groups else np.arange(len(data))
    if len(data):
        keep = ~np.isnan(data.reshape(len(data), -1)).any(1)
        data, labels = data[keep], labels[keep]
    if len(data) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng([seed, 417])
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    picks = rng.integers(0, len(members), (draws, len(members)))
    results = np.array([statistic(data[np.concatenate([members[k] for k in pick])]) for pick in picks])
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(results, [tail, 100 - tail])
    return Interval(float(statistic(data)), float(low), float(high), len(data))
