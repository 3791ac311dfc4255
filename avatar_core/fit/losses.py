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

from avatar_core.fit.config import FitWeights

SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
SSIM_WINDOW = 4  # px at half resolution
AT_ONCE = 2  # pictures that are compared in one go on the CPU


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


def box_ssim_loss(half: Tensor, target: Structure) -> tuple[Tensor, Tensor]:
    """1 - SSIM over box windows of SSIM_WINDOW px at half that stride, and its gradient, which autograd would take three times
    as long for. half (T,3,H/2,W/2), pictures at half resolution -> scalar, per window and frame; slope of the shape of half.

    It compares structure; fine detail is left to the L1 term.
    Locked by test_ssim_is_zero_for_equal_and_falls_with_structure, test_ssim_has_the_gradient_of_its_formula.
    """
    mean, like = box_windows(half), target.mean
    variance = box_windows(half * half).addcmul_(mean, mean, value=-1)
    both = box_windows(half * target.half).addcmul_(mean, like, value=-1)
    a, b = 2 * mean * like + SSIM_C1, 2 * both + SSIM_C2
    c, d = mean * mean + like * like + SSIM_C1, variance.relu() + target.variance + SSIM_C2
    ssim, share = a * b / (c * d), target.weight / (target.weight[0].numel() * len(half))
    by_both, by_variance = 2 * a / (c * d), ssim / d * -(variance > 0).float()
    by_mean = 2 * like * b / (c * d) - 2 * mean * ssim / c - like * by_both - 2 * mean * by_variance
    part = -share[:, None] / 3
    size = half.shape[-2:]
    slope = _windows_slope(part * by_mean, size)
    slope.addcmul_(half, _windows_slope(2 * part * by_variance, size))
    slope.addcmul_(target.half, _windows_slope(part * by_both, size))
    return ((1 - ssim.mean(1)) * share).sum(), slope


def _windows_slope(slope: Tensor, size: tuple[int, ...]) -> Tensor:
    """From slopes by `box_windows` of pictures of `size` those by the pictures: each pixel lies in up to four windows."""
    cell = (
        F.pad(slope, (0, 1, 0, 1))
        + F.pad(slope, (1, 0, 0, 1))
        + F.pad(slope, (0, 1, 1, 0))
        + F.pad(slope, (1, 0, 1, 0))
    )
    return enlarge(cell / SSIM_WINDOW**2, SSIM_WINDOW // 2, size)


def box_windows(x: Tensor) -> Tensor:
    """Means over windows of SSIM_WINDOW px at half that stride, from disjoint sums: each pixel is read once.

    Locked by test_box_windows_are_average_pooling.
    """
    cell = shrink(x, SSIM_WINDOW // 2)
    rows = cell[..., 1:, :] + cell[..., :-1, :]
    return 0.25 * (rows[..., 1:] + rows[..., :-1])


def shrink(x: Tensor, factor: int) -> Tensor:
    """Mean over disjoint blocks of factor x factor px; a remainder at the right and bottom is left out.

    Locked by test_shrink_is_average_pooling.
    """
    if factor == 1:
        return x
    # sums of strided views: three times as fast as average pooling
    height, width = x.shape[-2] // factor * factor, x.shape[-1] // factor * factor
    x = x[..., :height, :width]
    rows = sum((x[..., k::factor, :] for k in range(1, factor)), start=x[..., ::factor, :])
    return sum((rows[..., k::factor] for k in range(1, factor)), start=rows[..., ::factor]) / factor**2


def enlarge(x: Tensor, factor: int, size: tuple[int, ...]) -> Tensor:
    """Each pixel as a block of factor x factor, zeros beyond them up to `size`. Locked by test_enlarge_undoes_shrink."""
    big = F.interpolate(x, scale_factor=factor)
    height, width = big.shape[-2:]
    return big if (height, width) == tuple(size) else F.pad(big, (0, size[1] - width, 0, size[0] - height))


@dataclass(frozen=True)
class Seen:
    """What a window of drawings is compared with: target (T,3,H,W), foreground and weight (T,H,W), background (3,H,W)."""

    target: Tensor
    foreground: Tensor
    weight: Tensor
    background: Tensor
    structure: Structure

    def __getitem__(self, window: slice) -> Seen:
        parts = (self.target[window], self.foreground[window], self.weight[window])
        return Seen(*parts, self.background, self.structure[window])


class _Picture(torch.autograd.Function):
    """`picture_loss` with its gradient written out: a dozen passes over the pictures where autograd would take thirty.

    A few pictures at a time on the CPU: large memory is given back to the system and asked for again, as slow as a pass.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, alpha: Tensor, seen: Seen, w: FitWeights) -> Tensor:
        ctx.slopes = slope, by_alpha = torch.empty_like(image), torch.empty_like(alpha)
        frames, loss = len(image), image.new_zeros(())
        size = AT_ONCE if image.device.type == "cpu" else frames
        for k in range(0, frames, size):
            part = slice(k, k + size)
            share = len(image[part]) / frames
            loss += share * _compare(
                image[part], alpha[part], seen[part], w, share, slope[part], by_alpha[part]
            )
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        slope, by_alpha = ctx.slopes
        return slope.mul_(grads[0]), by_alpha.mul_(grads[0]), None, None  # used once


def _compare(
    image: Tensor, alpha: Tensor, seen: Seen, w: FitWeights, share: float, slope: Tensor, by_alpha: Tensor
) -> Tensor:
    """The loss of some pictures; `share` of its slopes is written to slope and by_alpha."""
    count = alpha.numel()
    error = torch.addcmul(image, alpha[:, None], seen.background, value=-1)
    error.add_(seen.background).sub_(seen.target)
    torch.sign(error, out=slope).mul_((seen.weight * (w.l1 * share / (3 * count)))[:, None])
    loss = torch.linalg.vecdot(error.flatten(), slope.flatten()) / share
    if w.ssim > 0:
        ssim, by_half = box_ssim_loss(shrink(error, 2).add_(seen.structure.half), seen.structure)
        loss = loss + w.ssim * ssim
        slope.add_(enlarge(by_half.mul_(share * w.ssim / 4), 2, image.shape[-2:]))
    beyond = alpha - seen.foreground
    loss = loss + w.mask * beyond.abs().mean()
    torch.sign(beyond, out=by_alpha).mul_(share * w.mask / count)
    for k in range(3):
        by_alpha.addcmul_(slope[:, k], seen.background[k], value=-1)
    return loss


def picture_loss(image: Tensor, alpha: Tensor, seen: Seen, w: FitWeights) -> Tensor:
    """Weighted L1, 1 - SSIM and outline of drawings (T,3,H,W) of coverage alpha (T,H,W), over the background; means over frames.

    Differentiable in image and alpha. Locked by test_picture_loss_is_its_formula_with_its_gradient.
    """
    return cast(Tensor, _Picture.apply(image, alpha, seen, w))


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
    strain = edge_strain(shift, turn, rest, edges)
    if adjacent:
        strain = strain.diff(dim=0)
    return strain_energy(strain, edge_weight, real)


def edge_strain(shift: Tensor, turn: Tensor, rest: Tensor, edges: Tensor) -> Tensor:
    """(T,E,3) m: how far the end of each edge is from where its node's motion takes it; linear in the motion. Locked by
    test_arap_is_zero_for_rigid_motion_and_for_static_misfit."""
    i, j = edges[:, 0], edges[:, 1]
    (x, y, z), (u, v, w) = turn[:, i].unbind(-1), (rest[j] - rest[i]).unbind(-1)
    turned = torch.stack([y * w - z * v, z * u - x * w, x * v - y * u], -1)
    return shift[:, j] - shift[:, i] - turned


def strain_energy(strain: Tensor, edge_weight: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean weighted square of strains (T,E,3), of none 0. real: as in `frame_mean`. Locked by
    test_arap_is_zero_for_rigid_motion_and_for_static_misfit."""
    if not len(strain):
        return strain.sum()
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
