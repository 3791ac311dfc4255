"""Losses of the deformable fit. Pictures: L1, SSIM, mask. Points: tracks, keypoints. Motion: rigidity, locality, spectrum.

Sources: AudioAvatar section "Video Diffusion Distillation" (trajectories, L1, ARAP between adjacent frames); SSIM is Wang et
al. 2004, here on box windows with a stride, which costs a tenth of the Gaussian one; ARAP is Sorkine and Alexa 2007.

Shapes: T frames, H x W pixels, K control nodes, E node edges, M tracks or keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def weighted_l1(image: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Images (T,3,H,W) in [0,1], weight (T,H,W) >= 0 -> sum of weighted absolute errors per frame's pixel count."""
    return ((image - target).abs().sum(1) * weight).sum() / (3 * weight[0].numel() * len(image))


def box_ssim_loss(image: Tensor, target: Tensor, weight: Tensor, window: int = 4) -> Tensor:
    """1 - SSIM at half resolution over box windows of `window` half-resolution px at half-window stride.

    Images (T,3,H,W), weight (T,H,W) -> scalar. Fine detail is the L1 term's business: this one sees structure.
    """
    half = window // 2
    image, target, weight = shrink(image, 2), shrink(target, 2), shrink(weight[:, None], 2)

    def windows(x: Tensor) -> Tensor:
        # Box sums at half-window stride from disjoint sums: each pixel is read once.
        cell = shrink(x, half)
        rows = cell[..., 1:, :] + cell[..., :-1, :]
        return 0.25 * (rows[..., 1:] + rows[..., :-1])

    mean_a, mean_b = windows(image), windows(target)
    var_a = windows(image * image) - mean_a * mean_a
    var_b = windows(target * target) - mean_b * mean_b
    both = windows(image * target) - mean_a * mean_b
    top = (2 * mean_a * mean_b + SSIM_C1) * (2 * both + SSIM_C2)
    value = top / ((mean_a * mean_a + mean_b * mean_b + SSIM_C1) * (var_a.relu() + var_b.relu() + SSIM_C2))
    w = windows(weight)[:, 0]
    return ((1 - value.mean(1)) * w).sum() / (w[0].numel() * len(image))


def shrink(x: Tensor, factor: int) -> Tensor:
    """Mean over disjoint blocks of factor x factor px; a remainder at the right and bottom is left out."""
    if factor == 1:
        return x
    height, width = x.shape[-2] // factor * factor, x.shape[-1] // factor * factor
    return F.avg_pool2d(x[..., :height, :width], factor)


def mask_loss(alpha: Tensor, mask: Tensor) -> Tensor:
    """Rendered coverage (T,H,W) against the foreground mask (T,H,W), both in [0,1]."""
    return (alpha - mask).abs().mean()


def point_loss(points: Tensor, targets: Tensor, weight: Tensor, softness: float = 0.5) -> Tensor:
    """Robust distance in pixels: points and targets (T,M,2), weight (T,M); targets of weight 0 may be NaN.

    sqrt(d^2 + softness^2) - softness, the weighted mean over points and frames: linear far away, so that a wrong
    keypoint or a slipped track pulls no harder than a right one.
    """
    error = torch.where(weight[..., None] > 0, points - targets.nan_to_num(), torch.zeros_like(points))
    distance = (error.square().sum(-1) + softness**2).sqrt() - softness
    return (distance * weight).sum() / weight.sum().clamp_min(1e-6)


def arap_edges(
    shift: Tensor, turn: Tensor, rest: Tensor, edges: Tensor, edge_weight: Tensor, adjacent: bool = True
) -> Tensor:
    """As-rigid-as-possible energy of node motion: shift, turn (T,K,3) at rest (K,3), edges (E,2) -> scalar in m^2.

    Within a frame an edge must turn with its node (spatial smoothness); with `adjacent` the same is asked of what
    changes between adjacent frames, so that a static misfit costs nothing there.
    """
    if adjacent:
        if len(shift) < 2:
            return shift.sum() * 0
        shift, turn = shift.diff(dim=0), turn.diff(dim=0)
    i, j = edges[:, 0], edges[:, 1]
    lever = rest[j] - rest[i]
    strain = shift[:, j] - shift[:, i] - torch.linalg.cross(turn[:, i], lever.expand(len(shift), -1, -1))
    return (strain.square().sum(-1) * edge_weight).mean()


def highpass(frames: int, cutoff_hz: float, fps: float = 25.0) -> Tensor:
    """(T,T) matrix that takes a curve to its weighted high DCT coefficients: 0 below the cut-off, up to 1 at Nyquist.

    The DCT, not the Fourier transform: a clip's two ends need not meet.
    """
    k, t = np.arange(frames)[:, None], np.arange(frames)[None] + 0.5
    dct = np.cos(np.pi * k * t / frames) * np.sqrt(np.where(k == 0, 1, 2) / frames)
    hertz = 0.5 * fps * k / frames
    rise = np.clip((hertz - cutoff_hz) / max(0.5 * fps - cutoff_hz, 1e-6), 0, 1)
    return torch.from_numpy((rise * dct).astype(np.float32))


def spectral_loss(curves: Tensor, matrix: Tensor) -> Tensor:
    """Mean energy of curves (T,...) above the cut-off of `highpass` (T,T): what the eye sees as jitter."""
    return (matrix @ curves.flatten(1)).square().sum(0).mean() / len(curves)


def bounds_loss(weights: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Soft bounds: mean squared excess of weights outside [low, high]."""
    return ((low - weights).relu().square() + (weights - high).relu().square()).mean()


@dataclass(frozen=True)
class TrackBinding:
    """particles (M,) int64 that tracks sit on; targets (T,M,2) float32 px of the particles' centres, NaN when absent."""

    particles: np.ndarray
    targets: np.ndarray


def bind_tracks(
    tracks: np.ndarray, pixels: np.ndarray, depth: np.ndarray, radius: float = 3.0, thickness: float = 0.03
) -> TrackBinding:
    """Attach every track to the nearest near-side particle in the track's first frame.

    tracks (T,P,2) px, NaN when absent; pixels (T,N,2) and depth (T,N) m of the particles as placed so far. A particle is
    on the near side when less than `thickness` metres behind the nearest one within `radius` px. The distance at the
    start is kept: a track tells how the particle moves, not where it is. Tracks on no particle are left out.
    """
    seen = np.isfinite(tracks).all(-1)
    first = np.where(seen.any(0), seen.argmax(0), -1)
    particles, targets = [], []
    for start in np.unique(first[first >= 0]):
        tree = cKDTree(pixels[start])
        chosen = np.flatnonzero(first == start)
        for track, near in zip(chosen, tree.query_ball_point(tracks[start, chosen], radius), strict=True):
            if not near:
                continue
            index = np.sort(np.asarray(near))
            front = index[depth[start, index] < depth[start, index].min() + thickness]
            particle = int(
                front[np.linalg.norm(pixels[start, front] - tracks[start, track], axis=-1).argmin()]
            )
            particles.append(particle)
            targets.append(tracks[:, track] - tracks[start, track] + pixels[start, particle])
    if not particles:
        return TrackBinding(np.zeros(0, np.int64), np.zeros((len(tracks), 0, 2), np.float32))
    return TrackBinding(np.asarray(particles, np.int64), np.stack(targets, 1).astype(np.float32))
