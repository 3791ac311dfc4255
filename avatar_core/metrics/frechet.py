"""Frechet distance between two sets of features: FID on frames, FVD on 16-frame clips.

Sources: Heusel et al. 2017 (FID), Unterthiner et al. 2018 (FVD): |m1-m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of
Gaussians fitted to the features. The value depends on the feature network and, for few samples, on their
number: only values of one backend and of equal sample counts may be compared.

Legend: N samples, D feature dimensions.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Frechet:
    """Distance with what it rests on; `warning` is empty when there are samples enough (more than 2 D a side)."""

    value: float
    samples: tuple[int, int]
    warning: str


def frechet_distance(ours: NDArray, truth: NDArray) -> Frechet:
    """Features (N1,D) and (N2,D) -> distance. Raises ValueError for fewer than 2 samples or unequal D.

    Locked by test_frechet_matches_the_matrix_square_root, test_frechet_of_shifted_gaussians_is_the_squared_shift.
    """
    a, b = np.asarray(ours, np.float64), np.asarray(truth, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"frechet features: expected (N,D) with equal D, found {a.shape} and {b.shape}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"frechet features: expected 2 samples or more a side, found {len(a)} and {len(b)}")
    mean = a.mean(0) - b.mean(0)
    # tr (C1 C2)^(1/2) = sum of the singular values of the product of the centred sample matrices: exact for
    # rank-deficient covariances too, where a matrix square root is not.
    x = (a - a.mean(0)) / np.sqrt(len(a) - 1)
    y = (b - b.mean(0)) / np.sqrt(len(b) - 1)
    # Reduce both to D x D factors first, so that the cost does not grow with N1*N2.
    rx = np.asarray(np.linalg.qr(x, mode="r")) if len(x) > x.shape[1] else x
    ry = np.asarray(np.linalg.qr(y, mode="r")) if len(y) > y.shape[1] else y
    cross = np.linalg.svd(rx @ ry.T, compute_uv=False).sum()
    value = float(mean @ mean + (x**2).sum() + (y**2).sum() - 2 * cross)
    need = 2 * a.shape[1]
    few = min(len(a), len(b))
    warning = (
        ""
        if few > need
        else f"{few} samples for {a.shape[1]} dimensions: biased upward, compare equal counts only"
    )
    return Frechet(max(value, 0.0), (len(a), len(b)), warning)
