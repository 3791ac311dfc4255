"""Losses of the deformable fit: right on cases worked out by hand, and gradients that point the right way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar_core.fit import losses


def _pictures(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, 64, 48, generator=generator)
    return image, torch.ones(2, 64, 48)


def test_weighted_l1_counts_only_weighted_pixels():
    image, weight = _pictures()
    target = image.clone()
    target[:, :, :10] += 0.5
    assert losses.weighted_l1(image, image, weight) == 0
    weight[:, :10] = 0
    assert losses.weighted_l1(image, target, weight) == 0
    weight[:, :10] = 1
    assert losses.weighted_l1(image, target, weight).item() == pytest.approx(0.5 * 10 / 64, rel=1e-5)


def test_ssim_is_zero_for_equal_and_falls_with_structure():
    image, weight = _pictures()
    assert losses.box_ssim_loss(image, losses.structure(image, weight)).item() == pytest.approx(0, abs=1e-6)
    brighter = losses.box_ssim_loss(image * 0.9 + 0.05, losses.structure(image, weight))
    other = losses.box_ssim_loss(_pictures(1)[0], losses.structure(image, weight))
    assert 0 < brighter < 0.2 * other


def test_ssim_gradient_improves():
    image, weight = _pictures()
    guess = _pictures(1)[0].requires_grad_()
    before = losses.box_ssim_loss(guess, losses.structure(image, weight))
    before.backward()
    with torch.no_grad():
        assert losses.box_ssim_loss(guess - 50 * guess.grad, losses.structure(image, weight)) < before


@pytest.mark.parametrize("factor", [2, 3])
def test_shrink_is_average_pooling_with_its_gradient(factor):
    image = _pictures()[0][..., :41, :].double().requires_grad_()
    small = losses.shrink(image, factor)
    torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(image, factor))
    assert torch.autograd.gradcheck(lambda x: losses.shrink(x, factor), image[:1, :1, :7, :8])


def test_weighted_l1_has_the_gradient_of_its_formula():
    image, weight = _pictures()
    target, weight = _pictures(1)[0], weight * torch.rand(2, 64, 48)
    ours, plain = image.clone().requires_grad_(), image.clone().requires_grad_()
    losses.weighted_l1(ours, target, weight).mul(3).backward()
    (3 * ((plain - target).abs().sum(1) * weight).sum() / (3 * 64 * 48 * 2)).backward()
    torch.testing.assert_close(ours.grad, plain.grad)


def test_structure_of_a_window_is_the_window_of_the_structure():
    image, weight = _pictures()
    whole, part = losses.structure(image, weight), losses.structure(image[1:], weight[1:])
    guess = _pictures(1)[0][1:]
    assert losses.box_ssim_loss(guess, whole[1:2]) == losses.box_ssim_loss(guess, part)


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
