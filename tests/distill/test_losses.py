import numpy as np
import torch

from avatar_core.distill.losses import (
    arap_loss,
    draw_score,
    picture_loss,
    trajectory_loss,
    vsd_loss,
)
from avatar_core.score.clips import AUDIO_CONTEXT
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork

SMALL = ScoreConfig(size=8, frames=2, channels=[8, 8], audio_channels=8, heads=2)


def _setup():
    torch.manual_seed(0)
    teacher = ScoreNetwork(SMALL).eval()
    torch.nn.init.normal_(teacher.head.weight, std=0.1)
    mel = torch.randn(1, 4 * (2 + 2 * AUDIO_CONTEXT), 80)
    return teacher, mel, torch.randn(1, 3, 8, 8)


def test_vsd_gradient_is_the_formula():
    teacher, mel, reference = _setup()
    frames = torch.randn(1, 2, 3, 8, 8).requires_grad_()
    drawn = draw_score(frames.shape, torch.Generator().manual_seed(5), tau=(0.3, 0.9))
    vsd_loss(frames, teacher, mel, reference, *drawn).backward()

    rng = torch.Generator().manual_seed(5)
    steps = torch.randint(299, 900, (1,), generator=rng)
    noise = torch.randn(frames.shape, generator=rng)
    alpha, sigma = teacher.alpha_sigma(steps)
    with torch.no_grad():
        score = teacher.predict(alpha * frames + sigma * noise, steps, mel, reference)
    expected = sigma**2 * (score - noise) * alpha / frames.numel()
    assert torch.allclose(frames.grad, expected, rtol=1e-4, atol=1e-8)
    assert all(p.grad is None for p in teacher.parameters())


def test_variational_vsd_vanishes_when_both_scores_agree():
    teacher, mel, reference = _setup()
    frames = torch.randn(1, 2, 3, 8, 8).requires_grad_()
    drawn = draw_score(frames.shape, torch.Generator().manual_seed(1))
    loss = vsd_loss(frames, teacher, mel, reference, *drawn, fake_score=teacher)
    loss.backward()
    assert loss == 0 and (frames.grad == 0).all()


def test_trajectory_ignores_absent_tracks_and_tames_slipped_ones():
    points = torch.zeros(1, 3, 2, requires_grad=True)
    targets = torch.tensor([[[1.0, 0.0], [float("nan"), 0.0], [1000.0, 0.0]]])
    loss = trajectory_loss(points, targets, size=100.0)
    loss.backward()
    assert torch.isclose(loss, torch.tensor((0.01**2 + 0.1 * (2 * 10 - 0.1)) / 2))
    assert (points.grad[0, 1] == 0).all() and points.grad[0, 2].norm() < 0.002


def test_arap_is_zero_for_rigid_motion_only():
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.normal(size=(20, 3))).float()
    knn = torch.from_numpy(np.argsort(((points[:, None] - points) ** 2).sum(-1).numpy(), 1)[:, 1:5])
    turn = torch.linalg.qr(torch.from_numpy(rng.normal(size=(3, 3))).float()).Q
    assert arap_loss(torch.stack([points, points @ turn.T + 1]), knn) < 1e-9
    assert arap_loss(torch.stack([points, points * 1.1]), knn) > 1e-3
    assert arap_loss(points[None], knn) == 0


def test_picture_loss_is_mean_absolute_difference():
    assert picture_loss(torch.zeros(2, 3), torch.tensor([[1.0, 0, 0], [0, 0, 0.5]])) == 0.25
