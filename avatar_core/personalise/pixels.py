"""Structural similarity of pictures, its slope by hand.

Pictures are planar (C,H,W), as the renderer stores them, and nothing is recorded: autograd over whole pictures, channels last, took
more of a step's time than rendering them.

Legend: C channels, H W pixels, h w blocks of 4 x 4 pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 4  # stride of SSIM's windows, which are two blocks a side
C1, C2 = 1e-4, 9e-4


def slope_of_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Slope (C,H,W) of the mean structural similarity of a and b (C,H,W) with respect to a.

    8 px box windows, stride 4: cheap, and smooth enough to descend. Pixels beyond the last whole block do not count.
    """
    mean_a, mean_b, aa, bb, ab = _means(torch.stack([a, b, a * a, b * b, a * b]))
    top, cover = 2 * mean_a * mean_b + C1, 2 * (ab - mean_a * mean_b) + C2
    low, spread = mean_a**2 + mean_b**2 + C1, aa - mean_a**2 + bb - mean_b**2 + C2
    share = 1 / (low * spread * top.numel())
    value = top * cover * share
    by_aa, by_ab = -value / spread, 2 * top * share
    by_mean = 2 * (mean_b * cover * share - mean_a * value / low - mean_a * by_aa) - mean_b * by_ab
    by_mean, by_aa, by_ab = _spread(torch.stack([by_mean, 2 * by_aa, by_ab]))
    height, width = BLOCK * (by_aa.shape[-2] // BLOCK), BLOCK * (by_aa.shape[-1] // BLOCK)
    inner = by_mean.addcmul_(a[:, :height, :width], by_aa).addcmul_(b[:, :height, :width], by_ab)
    return F.pad(inner, (0, a.shape[2] - width, 0, a.shape[1] - height))


def _means(pictures: Tensor) -> Tensor:
    """(...,H,W) -> means over windows (...,h-1,w-1). Sums of slices: torch's pooling is several times slower."""
    height, width = (BLOCK * (side // BLOCK) for side in pictures.shape[-2:])
    rows = pictures[..., :height, :width].unflatten(-2, (-1, BLOCK))
    rows = rows[..., 0, :] + rows[..., 1, :] + rows[..., 2, :] + rows[..., 3, :]
    blocks = rows[..., 0::4] + rows[..., 1::4] + rows[..., 2::4] + rows[..., 3::4]
    return _pairs(blocks) / (2 * BLOCK) ** 2


def _spread(windows: Tensor) -> Tensor:
    """The adjoint of `_means`: (...,h-1,w-1) -> (...,4h,4w)."""
    blocks = _pairs(F.pad(windows, (1, 1, 1, 1))) / (2 * BLOCK) ** 2
    wide = blocks[..., None].expand(*blocks.shape, BLOCK).flatten(-2)
    return wide[..., None, :].expand(*wide.shape[:-1], BLOCK, wide.shape[-1]).flatten(-3, -2)


def _pairs(a: Tensor) -> Tensor:
    """Sums over 2 x 2: (...,h,w) -> (...,h-1,w-1)."""
    a = a[..., :-1, :] + a[..., 1:, :]
    return a[..., :-1] + a[..., 1:]
