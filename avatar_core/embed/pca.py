"""Weighted principal components by randomised subspace iteration [Halko et al. 2011], and ridge regression.

Shapes: n rows (frames), m columns (flattened particles), k components. Deterministic for a seed.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fit_pca(
    rows: Tensor, k: int, weight: Tensor, seed: int = 0, iterations: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (m,), orthonormal basis (k,m) and standard deviations (k,) of rows (n,m) under row weights (n,).

    Fewer than k independent rows give components of a tiny deviation, so that whitening stays finite.
    Locked by test_pca_finds_the_plane_and_ignores_frames_of_no_weight.
    """
    n, m = rows.shape
    share = (weight / weight.sum().clamp_min(1e-12))[:, None]
    mean = (rows * share).sum(0)
    centred = (rows - mean) * share.sqrt()
    width = min(k + 10, m)
    sketch = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), device="cpu").to(
        rows.device
    )
    subspace = torch.linalg.qr(centred.T @ sketch).Q
    for _ in range(iterations):
        subspace = torch.linalg.qr(centred.T @ (centred @ subspace)).Q
    values, vectors = torch.linalg.eigh((centred @ subspace).T.double() @ (centred @ subspace).double())
    order = torch.argsort(values, descending=True)[:k]
    basis = (subspace @ vectors[:, order].float()).T
    # eigh leaves the sign open: make the largest entry positive, so that two machines agree.
    largest = basis.abs().argmax(1, keepdim=True)
    basis = basis * basis.gather(1, largest).sign()
    std = values[order].clamp_min(0).sqrt().float()
    return mean, basis.contiguous(), std.clamp_min(1e-4 * float(std[0]) + 1e-9)


def ridge(x: Tensor, y: Tensor, strength: float, weight: Tensor) -> Tensor:
    """Table (k+1,m) that maps [x, 1] to y: x (n,k) whitened, y (n,m). The constant is not shrunk.

    Locked by test_ridge_recovers_a_linear_map_with_its_constant.
    """
    share = (weight / weight.sum().clamp_min(1e-12))[:, None]
    x_mean, y_mean = (x * share).sum(0), (y * share).sum(0)
    xc, yc = x - x_mean, y - y_mean
    normal = (xc * share).T @ xc + strength * torch.eye(x.shape[1], device=x.device)
    slope = torch.linalg.solve(normal, (xc * share).T @ yc)
    return torch.cat([slope, (y_mean - x_mean @ slope)[None]])
