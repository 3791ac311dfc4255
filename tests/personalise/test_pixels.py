"""Structural similarity's slope by hand is what autograd finds, at any size."""

import pytest
import torch
import torch.nn.functional as F

from avatar_core.personalise.pixels import C1, C2, slope_of_ssim


def similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of pictures (C,H,W), by torch's pooling."""
    mean_a, mean_b, aa, bb, ab = (F.avg_pool2d(x, 8, 4) for x in (a, b, a * a, b * b, a * b))
    top = (2 * mean_a * mean_b + C1) * (2 * (ab - mean_a * mean_b) + C2)
    return (top / ((mean_a**2 + mean_b**2 + C1) * (aa - mean_a**2 + bb - mean_b**2 + C2))).mean()


@pytest.mark.parametrize("size", [(24, 32), (27, 33), (8, 15)])
def test_slope_equals_autograd(size):
    random = torch.Generator().manual_seed(3)
    a, b = torch.rand(2, 3, *size, dtype=torch.float64, generator=random)
    (slope,) = torch.autograd.grad(similarity(a.requires_grad_(), b), a)
    torch.testing.assert_close(slope_of_ssim(a.detach(), b), slope, atol=1e-12, rtol=1e-9)
