"""The slope of structural similarity by hand, against autograd through the formula."""

import torch
import torch.nn.functional as F

from avatar_core.personalise.pixels import C1, C2, slope_of_ssim


def test_slope_of_ssim_is_that_of_the_formula_also_with_sides_that_are_no_whole_blocks():
    random = torch.Generator().manual_seed(1)
    a, b = (torch.rand(3, 47, 61, generator=random, dtype=torch.float64) for _ in range(2))
    a.requires_grad_()
    pool = lambda x: F.avg_pool2d(x, 8, 4)  # noqa: E731
    mean_a, mean_b = pool(a), pool(b)
    spread = pool(a * a) - mean_a**2 + pool(b * b) - mean_b**2 + C2
    both = pool(a * b) - mean_a * mean_b
    value = (2 * mean_a * mean_b + C1) * (2 * both + C2) / ((mean_a**2 + mean_b**2 + C1) * spread)
    value.mean().backward()
    assert a.grad is not None
    torch.testing.assert_close(slope_of_ssim(a.detach(), b), a.grad)
    assert float(a.grad.abs().max()) > 1e-4
