"""Losses of the distillation: score distillation, track reprojection, pictures and local rigidity.

Source: paper section "Video Diffusion Distillation".
Shapes: B clips, F consecutive frames, N particles, M tracks, H x W pixels, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avatar_core.score import ScoreTeacher


def draw_score(
    shape: Sequence[int], rng: torch.Generator, tau: Sequence[float] = (0.3, 0.9)
) -> tuple[Tensor, Tensor]:
    """Timesteps (B,) between the given shares of the schedule, and noise of a shape (B,...), on the CPU.

    Locked by test_vsd_gradient_is_the_formula.
    """
    low, high = (int(t * 999) for t in tau)
    timesteps = torch.randint(low, high + 1, (shape[0],), generator=rng, device="cpu")
    return timesteps, torch.randn(*shape, generator=rng, device="cpu")


def vsd_loss(
    frames: Tensor,
    teacher: ScoreTeacher,
    log_mel: Tensor,
    reference: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    *,
    guidance: float = 1.0,
    fake_score: ScoreTeacher | None = None,
) -> Tensor:
    """Video Score Distillation: a scalar with the paper's gradient.

    Equation: grad L_vsd = E[w(tau) (s_psi(I_tau, tau, c) - eps) dI_tau/dPhi].

    frames: rendered ones (B,F,3,H,W) in [-1,1] as `teacher.encode` gives them, with gradients. I_tau = alpha(tau) I +
    sigma(tau) eps at the timesteps tau (B,) with noise eps of the same shape, see `draw_score`; w(tau) = sigma(tau)^2. With
    fake_score, a score network of the rendered clips themselves, its noise estimate takes the place of eps (the variational form
    [Wang et al. 2023]).
    The value is the mean size of the score difference: it says how far the teacher would move the frames.
    Locked by test_vsd_gradient_is_the_formula, test_variational_vsd_vanishes_when_both_scores_agree.
    """
    alpha, sigma = teacher.alpha_sigma(timesteps)
    noisy = alpha * frames + sigma * noise
    with torch.no_grad():
        score = teacher.predict(noisy.detach(), timesteps, log_mel, reference, guidance)
        target = noise
        if fake_score is not None:
            target = fake_score.predict(noisy.detach(), timesteps, log_mel, reference)
        gradient = sigma.square() * (score - target)
    value = gradient.square().mean().sqrt()
    # The gradient is injected: this term is zero in value and has d/d(noisy) = gradient / count.
    injected = (gradient * (noisy - noisy.detach())).sum() / noisy.numel()
    return value + injected


def trajectory_loss(points: Tensor, targets: Tensor, size: float, limit: float = 0.1) -> Tensor:
    """Squared reprojection error of particle centres points (F,M,2) against tracked pixels targets (F,M,2).

    In units of `size` pixels (the picture's side). NaN targets are absent. A track further off than `limit` has slipped:
    beyond it the loss grows linearly.
    Equation: the paper's L_traj = sum_i sum_t |u_hat - u|^2, here the mean over what is seen, and robust. Locked by
    test_trajectory_ignores_absent_tracks_and_tames_slipped_ones.
    """
    seen = torch.isfinite(targets).all(-1)
    error = torch.where(seen[..., None], points - targets.nan_to_num(), torch.zeros_like(points)) / size
    distance = (error.square().sum(-1) + 1e-12).sqrt()
    robust = torch.where(distance < limit, distance.square(), limit * (2 * distance - limit))
    return (robust * seen).sum() / seen.sum().clamp_min(1)


def arap_loss(means: Tensor, knn: Tensor, rest: Tensor | None = None) -> Tensor:
    """Change of the distances to the K neighbours between adjacent frames: means (F,N,3), knn (N,K) -> scalar.

    Relative to the mean neighbour distance (of `rest` (N,3) if given, else of the first frame).
    Equation: mean over i, t and j in kNN(i) of ((d_ij(t+1) - d_ij(t)) / d)^2. Locked by
    test_arap_is_zero_for_rigid_motion_only.
    """
    if len(means) < 2:
        return means.sum() * 0
    edges = (means[:, knn] - means[:, :, None]).square().sum(-1).add(1e-12).sqrt()
    base = edges[0].detach() if rest is None else (rest[knn] - rest[:, None]).norm(dim=-1)
    return (edges.diff(dim=0) / base.mean().clamp_min(1e-6)).square().mean()


def picture_loss(frames: Tensor, targets: Tensor) -> Tensor:
    """L1 between rendered and teacher frames, both in [0,1].

    Equation: mean |I_hat - I|. Locked by test_picture_loss_is_mean_absolute_difference.
    """
    return (frames - targets).abs().mean()
