"""Losses of the deformable fit: right on cases worked out by hand, and gradients that point the right way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar_core.fit import losses
from avatar_core.fit.config import FitWeights


def _pictures(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, 64, 48, generator=generator)
    return image, torch.ones(2, 64, 48)


def _half(image):
    return losses.shrink(image, 2)


def test_ssim_is_zero_for_equal_and_falls_with_structure():
    image, weight = _pictures()
    like = losses.structure(image, weight)
    assert losses.box_ssim_loss(_half(image), like)[0].item() == pytest.approx(0, abs=1e-6)
    brighter, _ = losses.box_ssim_loss(_half(image * 0.9 + 0.05), like)
    other, _ = losses.box_ssim_loss(_half(_pictures(1)[0]), like)
    assert 0 < brighter < 0.2 * other


def _plain_ssim(half, target):
    """The formula of `box_ssim_loss`, for autograd."""
    mean = losses.box_windows(half)
    variance = losses.box_windows(half * half) - mean * mean
    both = losses.box_windows(half * target.half) - mean * target.mean
    top = (2 * mean * target.mean + losses.SSIM_C1) * (2 * both + losses.SSIM_C2)
    bottom = (mean**2 + target.mean**2 + losses.SSIM_C1) * (
        variance.relu() + target.variance + losses.SSIM_C2
    )
    return ((1 - (top / bottom).mean(1)) * target.weight).sum() / (target.weight[0].numel() * len(half))


@pytest.mark.parametrize("width", [48, 45])
def test_ssim_has_the_gradient_of_its_formula(width):
    image, guess = (_pictures(seed)[0][..., :width].double() for seed in (0, 1))
    like = losses.structure(image, torch.rand(2, 64, width, dtype=torch.double))
    half = _half(guess).requires_grad_()
    loss, slope = losses.box_ssim_loss(half.detach(), like)
    plain = _plain_ssim(half, like)
    plain.backward()
    torch.testing.assert_close(loss, plain.detach())
    torch.testing.assert_close(slope, half.grad)


@pytest.mark.parametrize("width", [48, 45])
def test_picture_loss_is_its_formula_with_its_gradient(width):
    g = torch.Generator().manual_seed(2)
    image, target = (
        torch.rand(3, 3, 64, width, generator=g, dtype=torch.double) for _ in range(2)
    )  # more than AT_ONCE
    alpha, mask, weight = (torch.rand(3, 64, width, generator=g, dtype=torch.double) for _ in range(3))
    background = torch.rand(3, 64, width, generator=g, dtype=torch.double)
    seen = losses.Seen(target, mask, weight, background, losses.structure(target, weight))
    w = FitWeights(l1=0.7, ssim=0.3, mask=0.2)

    def formula(image, alpha):
        drawn = image + (1 - alpha[:, None]) * background
        loss = 0.7 * ((drawn - target).abs().mean(1) * weight).mean() + 0.2 * (alpha - mask).abs().mean()
        return loss + 0.3 * _plain_ssim(_half(drawn), seen.structure)

    values, slopes = [], []
    for function in (formula, lambda *of: losses.picture_loss(*of, seen, w)):
        leaves = [image.clone().requires_grad_(), alpha.clone().requires_grad_()]
        value = function(*leaves)
        (3 * value).backward()
        values.append(value.detach())
        slopes.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("factor", [2, 3])
def test_shrink_is_average_pooling(factor):
    image = _pictures()[0][..., :41, :]
    torch.testing.assert_close(losses.shrink(image, factor), torch.nn.functional.avg_pool2d(image, factor))


def test_enlarge_undoes_shrink():
    small = _pictures()[0][..., :10, :12]
    big = losses.enlarge(small, 2, (21, 24))
    assert big.shape[-2:] == (21, 24) and (big[..., 20, :] == 0).all()
    torch.testing.assert_close(losses.shrink(big[..., :20, :], 2), small)


def test_structure_of_a_window_is_the_window_of_the_structure():
    image, weight = _pictures()
    whole, part = losses.structure(image, weight), losses.structure(image[1:], weight[1:])
    guess = _pictures(1)[0][1:]
    assert losses.box_ssim_loss(_half(guess), whole[1:2])[0] == losses.box_ssim_loss(_half(guess), part)[0]


def test_point_loss_ignores_absent_targets_and_is_robust():
    points = torch.zeros(2, 3, 2, requires_grad=True)
    targets = torch.tensor([[[3.0, 4.0], [float("nan")] * 2, [300.0, 400.0]]] * 2)
    weight = torch.tensor([[1.0, 0.0, 1.0]] * 2)
    loss = losses.point_loss(points, targets, weight)
    assert loss.item() == pytest.approx((5 + 500) / 2, rel=0.02)
    loss.backward()
    pulls = points.grad.norm(dim=-1)
    assert pulls[0, 1] == 0
    assert pulls[0, 2] == pytest.approx(pulls[0, 0].item(), rel=0.02)  # a far outlier pulls no harder


def test_arap_is_zero_for_rigid_motion_and_for_static_misfit():
    rng = np.random.default_rng(0)
    rest = torch.tensor(rng.normal(size=(5, 3)) * 0.05, dtype=torch.float32)
    edges = torch.tensor([[i, j] for i in range(5) for j in range(5) if i != j])
    weight = torch.ones(len(edges))
    turn = torch.tensor([0.0, 0.0, 1e-3]).expand(2, 5, 3)
    shift = torch.linalg.cross(turn, rest.expand(2, 5, 3)) + torch.tensor([0.01, 0, 0])
    assert losses.arap_edges(shift, turn, rest, edges, weight, adjacent=False).item() == pytest.approx(
        0, abs=1e-12
    )
    stretch = (0.1 * rest).expand(2, 5, 3)
    assert losses.arap_edges(stretch, 0 * turn, rest, edges, weight, adjacent=False) > 1e-6
    assert losses.arap_edges(stretch, 0 * turn, rest, edges, weight) == 0


def test_spectral_loss_sees_jitter_not_slow_motion():
    t = np.arange(50) / 25
    matrix = losses.highpass(50, 6.0)
    slow = (
        torch.tensor(np.sin(2 * np.pi * 1.0 * t), dtype=torch.float32)[:, None]
        + 0.3 * torch.tensor(t)[:, None].float()
    )
    fast = torch.tensor(np.sin(2 * np.pi * 11.0 * t), dtype=torch.float32)[:, None]
    assert losses.spectral_loss(slow, matrix) < 1e-3 * losses.spectral_loss(fast, matrix)


def test_bounds_loss():
    assert losses.bounds_loss(torch.tensor([0.0, 0.5, 1.0])) == 0
    assert losses.bounds_loss(torch.tensor([-1.0, 2.0])).item() == pytest.approx(1.0)
