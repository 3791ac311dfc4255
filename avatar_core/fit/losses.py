"""Losses of the deformable fit. Pictures: L1, SSIM, mask. Points: tracks, keypoints. Motion: rigidity, locality, spectrum.

Sources: AudioAvatar section "Video Diffusion Distillation" (trajectories, L1, ARAP between adjacent frames); SSIM is Wang et
al. 2004, here on box windows with a stride, which costs a tenth of the Gaussian one; ARAP is Sorkine and Alexa 2007.

Shapes: T frames, H x W pixels, K control nodes, E node edges, M tracks or keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
SSIM_WINDOW = 4  # px at half resolution


class _WeightedL1(torch.autograd.Function):
    """`weighted_l1` with its gradient written out: two passes over the pictures where autograd would take eight."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        error = image - target
        scale = 1 / (3 * weight[0].numel() * len(image))
        ctx.save_for_backward(error, weight)
        ctx.scale = scale
        return torch.linalg.vecdot(error.abs().sum(1).flatten(), weight.flatten()) * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        error, weight = ctx.saved_tensors
        return error.sign().mul_((weight * (grads[0] * ctx.scale))[:, None]), None, None


def weighted_l1(image: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Images (T,3,H,W) in [0,1], weight (T,H,W) >= 0 -> sum of weighted absolute errors per frame's pixel count.

    Differentiable in the image alone.
    Locked by test_weighted_l1_counts_only_weighted_pixels, test_weighted_l1_has_the_gradient_of_its_formula.
    """
    return cast(Tensor, _WeightedL1.apply(image, target, weight))


@dataclass(frozen=True)
class Structure:
    """What `box_ssim_loss` compares with, once per clip: half (T,3,H/2,W/2) the pictures at half resolution; mean and
    variance (T,3,h,w) of its box windows, weight (T,h,w) of each window."""

    half: Tensor
    mean: Tensor
    variance: Tensor
    weight: Tensor

    def __getitem__(self, window: slice) -> Structure:
        return Structure(self.half[window], self.mean[window], self.variance[window], self.weight[window])


def structure(target: Tensor, weight: Tensor) -> Structure:
    """Pictures (T,3,H,W) in [0,1], weight (T,H,W).

    Locked by test_structure_of_a_window_is_the_window_of_the_structure.
    """
    half = shrink(target, 2)
    mean = box_windows(half)
    variance = (box_windows(half * half) - mean * mean).relu()
    return Structure(half, mean, variance, box_windows(shrink(weight[:, None], 2))[:, 0])


def box_ssim_loss(image: Tensor, target: Structure) -> Tensor:
    """1 - SSIM at half resolution over box windows of SSIM_WINDOW half-resolution px at half-window stride.

    image (T,3,H,W) -> scalar, per window and frame. It compares structure; fine detail is left to the L1 term.
    Locked by test_ssim_is_zero_for_equal_and_falls_with_structure.
    """
    half = shrink(image, 2)
    mean = box_windows(half)
    variance = box_windows(half * half) - mean * mean
    both = box_windows(half * target.half) - mean * target.mean
    top = (2 * mean * target.mean + SSIM_C1) * (2 * both + SSIM_C2)
    bottom = (mean * mean + target.mean.square() + SSIM_C1) * (variance.relu() + target.variance + SSIM_C2)
    return ((1 - (top / bottom).mean(1)) * target.weight).sum() / (target.weight[0].numel() * len(image))


def box_windows(x: Tensor) -> Tensor:
    """Means over windows of SSIM_WINDOW px at half that stride, from disjoint sums: each pixel is read once.

    Locked by test_box_windows_are_average_pooling.
    """
    cell = shrink(x, SSIM_WINDOW // 2)
    rows = cell[..., 1:, :] + cell[..., :-1, :]
    return 0.25 * (rows[..., 1:] + rows[..., :-1])


class _Shrink(torch.autograd.Function):
    """`shrink` as sums of strided views, its gradient as one copy: three times as fast as average pooling."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> Tensor:
        ctx.factor, ctx.shape = factor, x.shape
        height, width = x.shape[-2] // factor * factor, x.shape[-1] // factor * factor
        x = x[..., :height, :width]
        rows = sum((x[..., k::factor, :] for k in range(1, factor)), start=x[..., ::factor, :])
        columns = sum((rows[..., k::factor] for k in range(1, factor)), start=rows[..., ::factor])
        return columns / factor**2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        factor, (height, width) = ctx.factor, ctx.shape[-2:]
        grad = grads[0] / factor**2
        spread = grad[..., :, None, :, None].expand(*grad.shape[:-1], factor, grad.shape[-1], factor)
        spread = spread.reshape(*grad.shape[:-2], grad.shape[-2] * factor, grad.shape[-1] * factor)
        if spread.shape[-2:] != (height, width):
            spread = F.pad(spread, (0, width - spread.shape[-1], 0, height - spread.shape[-2]))
        return spread, None


def shrink(x: Tensor, factor: int) -> Tensor:
    """Mean over disjoint blocks of factor x factor px; a remainder at the right and bottom is left out.

    Locked by test_shrink_is_average_pooling_with_its_gradient.
    """
    return x if factor == 1 else cast(Tensor, _Shrink.apply(x, factor))


def mask_loss(alpha: Tensor, mask: Tensor) -> Tensor:
    """Rendered coverage (T,H,W) against the foreground mask (T,H,W), both in [0,1].

    Locked by test_mask_loss_is_the_uncovered_and_the_overdrawn_area.
    """
    return (alpha - mask).abs().mean()


def point_loss(points: Tensor, targets: Tensor, weight: Tensor, softness: float = 0.5) -> Tensor:
    """Robust distance in pixels: points and targets (T,M,2), weight (T,M); targets of weight 0 may be NaN.

    sqrt(d^2 + softness^2) - softness, the weighted mean over points and frames: linear far away, so that a wrong
    keypoint or a slipped track pulls no harder than a right one.
    Locked by test_point_loss_ignores_absent_targets_and_is_robust.
    """
    error = torch.where(weight[..., None] > 0, points - targets.nan_to_num(), torch.zeros_like(points))
    distance = (error.square().sum(-1) + softness**2).sqrt() - softness
    return (distance * weight).sum() / weight.sum().clamp_min(1e-6)


def frame_mean(values: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean of values (T,...), or of k-th differences (T-k,...), of frames. real (T,): 1 for those that count, 0 behind them, since
    clips that are fitted together are filled up to one length. Locked by test_frames_that_fill_up_do_not_count."""
    if real is None:
        return values.mean()
    share = real[len(real) - len(values) :]
    return torch.linalg.vecdot(values.reshape(len(values), -1).mean(1), share) / share.sum()


def arap_edges(
    shift: Tensor,
    turn: Tensor,
    rest: Tensor,
    edges: Tensor,
    edge_weight: Tensor,
    adjacent: bool = True,
    real: Tensor | None = None,
) -> Tensor:
    """As-rigid-as-possible energy of node motion: shift, turn (T,K,3) at rest (K,3), edges (E,2) -> scalar in m^2.

    Within a frame an edge must turn with its node (spatial smoothness); with `adjacent` the same is asked of what
    changes between adjacent frames, so that a static misfit costs nothing there. real: as in `frame_mean`.
    Equation: sum_ij w_ij |(s_j - s_i) - omega_i x (p_j - p_i)|^2 over frames and edges, as a mean. Locked by
    test_arap_is_zero_for_rigid_motion_and_for_static_misfit.
    """
    if adjacent:
        if len(shift) < 2:
            return shift.sum() * 0
        shift, turn = shift.diff(dim=0), turn.diff(dim=0)
    i, j = edges[:, 0], edges[:, 1]
    lever = rest[j] - rest[i]
    strain = shift[:, j] - shift[:, i] - torch.linalg.cross(turn[:, i], lever.expand(len(shift), -1, -1))
    return frame_mean(strain.square().sum(-1) * edge_weight, real)


def highpass(frames: int, cutoff_hz: float, fps: float = 25.0) -> Tensor:
    """(T,T) matrix that takes a curve to its weighted high DCT coefficients: 0 below the cut-off, up to 1 at Nyquist.

    The DCT, not the Fourier transform: a clip's two ends need not meet.
    Locked by test_spectral_loss_sees_jitter_not_slow_motion.
    """
    k, t = np.arange(frames)[:, None], np.arange(frames)[None] + 0.5
    dct = np.cos(np.pi * k * t / frames) * np.sqrt(np.where(k == 0, 1, 2) / frames)
    hertz = 0.5 * fps * k / frames
    rise = np.clip((hertz - cutoff_hz) / max(0.5 * fps - cutoff_hz, 1e-6), 0, 1)
    return torch.from_numpy((rise * dct).astype(np.float32))


def spectral_loss(curves: Tensor, matrix: Tensor) -> Tensor:
    """Mean energy of curves (T,...) above the cut-off of `highpass` (T,T): what the eye sees as jitter.

    Equation: |H c|^2 / T with H the rows of `highpass`. Locked by test_spectral_loss_sees_jitter_not_slow_motion.
    """
    return (matrix @ curves.flatten(1)).square().sum(0).mean() / len(curves)


def bounds_loss(weights: Tensor, real: Tensor | None = None, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Soft bounds: mean squared excess of weights outside [low, high]. real: as in `frame_mean`. Locked by test_bounds_loss."""
    return frame_mean((low - weights).relu().square() + (weights - high).relu().square(), real)
