"""Clip-level template track: camera, skeleton and face actions of all frames at once, from detected 2D keypoints.

It places the arms before any picture is compared, and starts the lips near the truth: optical flow and photometric
losses alone lose both. The camera is that of `fit.camera`, the same over the clip.

Sources: skeleton splines and priors as in video-based human pose fitting (SMPLify, Bogo et al. 2016, over all frames at once).
Shapes: T frames, M keypoints, R bones, A = 52 face actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from avatar_core.errors import UserError
from avatar_core.fit.adam import FlooredAdam
from avatar_core.fit.config import SkeletonTrackConfig
from avatar_core.fit.losses import bounds_loss, frame_mean, point_loss
from avatar_core.fit.pose_prior import SLOW, pose_prior
from avatar_core.fit.rig import FitRig, bones, place
from avatar_core.geometry.camera import Camera, project
from avatar_core.template.landmarks import KEYPOINTS, indices, opening_pairs

_RARE = (
    "jawForward",
    "jawLeft",
    "jawRight",
    "mouthLeft",
    "mouthRight",
    "cheek",
    "noseSneer",
    "mouthDimple",
    "mouthFrown",
    "tongueOut",
    "eyeWide",
)
_RARE_COST = 5.0
# Radians about the axis across the body, forward. People who talk hold elbows and hands ahead of the trunk; how far, a picture
# hardly says (an upper arm that points 30 degrees forward looks a seventh shorter), so where the search starts tells.
_FORWARD = {"upperarm01": -0.5, "lowerarm01": -0.5}


@dataclass(frozen=True)
class Track:
    """rotvecs (T,R,3) rad, translation (T,3) m, weights (T,A), all on a skeleton; the camera; point_error (T,) px."""

    rotvecs: Tensor
    translation: Tensor
    weights: Tensor
    camera: Camera
    point_error: Tensor


def spline_basis(frames: int, spacing: float) -> Tensor:
    """(T,C) uniform cubic B-spline basis with knots `spacing` frames apart; rows sum to 1."""
    t = np.arange(frames) / spacing
    first = np.floor(t).astype(int)
    u = t - first
    basis = np.zeros((frames, int(first[-1]) + 4))
    pieces = ((1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3)
    for k, piece in enumerate(pieces):
        basis[np.arange(frames), first + k] = piece / 6
    return torch.from_numpy(basis.astype(np.float32))


@dataclass(frozen=True)
class Curves:
    """Spline coefficients of a clip's skeleton: slow (C1,Rs,3), quick (C2,Rq,3), shift (C1,3); bases and bone order."""

    slow: Tensor
    quick: Tensor
    shift: Tensor
    slow_basis: Tensor
    quick_basis: Tensor
    order: Tensor

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.slow, self.quick, self.shift

    def __call__(self) -> tuple[Tensor, Tensor]:
        """rotvecs (T,R,3), translation (T,3)."""
        slow = torch.einsum("tc,crk->trk", self.slow_basis, self.slow)
        quick = torch.einsum("tc,crk->trk", self.quick_basis, self.quick)
        return torch.cat([slow, quick], 1)[:, self.order], self.slow_basis @ self.shift


def make_curves(rig: FitRig, frames: int, config: SkeletonTrackConfig) -> Curves:
    """Curves at the canonical pose but for arms that reach forward: which way, and how far, is not seen in 2D."""
    names = rig.skeleton.names
    slow = [i for i, name in enumerate(names) if name in SLOW]
    quick = [i for i in range(len(names)) if i not in slow]
    device = rig.rest.device
    slow_basis = spline_basis(frames, config.slow_knots).to(device)
    quick_basis = spline_basis(frames, config.quick_knots).to(device)
    start = torch.zeros(quick_basis.shape[1], len(quick), 3, device=device)
    for i, bone in enumerate(quick):
        start[:, i, 0] = next((angle for arm, angle in _FORWARD.items() if names[bone].startswith(arm)), 0.0)
    return Curves(
        slow=start.new_zeros(slow_basis.shape[1], len(slow), 3).requires_grad_(),
        quick=start.requires_grad_(),
        shift=start.new_zeros(slow_basis.shape[1], 3).requires_grad_(),
        slow_basis=slow_basis,
        quick_basis=quick_basis,
        order=torch.argsort(torch.tensor(slow + quick, device=device)),
    )


def keypoint_weights(confidence: np.ndarray, config: SkeletonTrackConfig) -> Tensor:
    """(T,M) weights of keypoints: confidence above 0.2, lips and lids raised."""
    scale = np.ones(len(KEYPOINTS), np.float32)
    scale[indices("lips_")] = config.lips
    scale[indices("eyelids.", "iris.")] = config.lids
    trusted = np.where(confidence > 0.2, np.clip(confidence, 0, 1), 0)
    return torch.from_numpy((trusted * scale).astype(np.float32))


def opening_loss(points: Tensor, xy: Tensor, weight: Tensor) -> Tensor:
    """Robust error in px of the openings of lips and lids (T,M,2): differences cancel what a detector has in common."""
    a, b = _openings(points.device)
    both = torch.minimum(weight[:, a], weight[:, b])
    return point_loss(points[:, a] - points[:, b], xy[:, a] - xy[:, b], both, softness=0.3)


@lru_cache(maxsize=4)
def _openings(device: torch.device) -> tuple[Tensor, Tensor]:
    """Upper and lower keypoints of the openings, made once: an index that came from the CPU would make a device wait."""
    upper, lower = torch.tensor(opening_pairs("lips_inner") + opening_pairs("eyelids"), device=device).T
    return upper, lower


def action_costs(names: tuple[str, ...]) -> Tensor:
    """(A,) cost factor of the face actions: 1 for what speech and looks use, more for what keypoints show badly."""
    return torch.tensor([_RARE_COST if name.startswith(_RARE) else 1.0 for name in names], device="cpu")


def action_pairs(names: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Indices of actions that usually go together: left and right, and for gaze in and out."""
    index = {name: i for i, name in enumerate(names)}
    left, right = [], []
    for name, i in index.items():
        if name.endswith("Left"):
            other = name[:-4] + "Right"
            if name.startswith("eyeLookIn"):
                other = "eyeLookOutRight"
            elif name.startswith("eyeLookOut"):
                other = "eyeLookInRight"
            if other in index and not name.startswith(("jaw", "mouthLeft")):
                left.append(i)
                right.append(index[other])
    return left, right


def track_clip(
    rig: FitRig,
    xy: np.ndarray,
    confidence: np.ndarray,
    camera: Camera,
    config: SkeletonTrackConfig = SkeletonTrackConfig(),
) -> tuple[Curves, Track]:
    """Fit skeleton curves and face actions to detected keypoints xy (T,M,2) px, confidence (T,M).

    Returns the curves, whose coefficients a later refinement may go on with, and the track itself.
    """
    frames, device = len(xy), rig.rest.device
    targets = torch.from_numpy(np.asarray(xy, np.float32)).to(device)
    weight = keypoint_weights(confidence, config).to(device)
    told = Told.of(rig)
    curves = make_curves(rig, frames, config)
    weights = torch.zeros(frames, len(rig.actions), device=device, requires_grad=True)
    bias = torch.zeros(len(KEYPOINTS), 3, device=device, requires_grad=True)  # mm
    optimizer = track_optimizer((*curves.parameters(), weights, bias), config)
    for step in range(config.iterations):
        optimizer.clear()
        see = partial(project, camera=camera)
        track_loss(rig, curves, weights, bias, targets, weight, see, told, config).backward()
        optimizer.step(track_decay(step, config))
    track = track_result(rig, curves, weights, targets, weight, camera)
    return curves, track


def track_optimizer(parameters: Sequence[Tensor], config: SkeletonTrackConfig) -> FlooredAdam:
    """Plain Adam on the curves' coefficients, face actions and landmark misfit (mm)."""
    turn = config.rate_rotation
    rates = [0.3 * turn, turn, config.rate_translation, config.rate_action, 0.2]
    return FlooredAdam(parameters, rates, betas=(0.9, 0.98), floor=0.0, least=1e-8)


def track_decay(step: int, config: SkeletonTrackConfig) -> float:
    """Share of the rates at a step: a cosine to nothing."""
    return 0.5 * (1 + float(np.cos(np.pi * step / config.iterations)))


@dataclass(frozen=True)
class Told:
    """What `track_loss` needs to know of the template: face (M,1) 1 for its keypoints; rare (A,) costs; pairs of actions; wrists
    and shoulders, none where the framing does not show them."""

    face: Tensor
    rare: Tensor
    left: Tensor
    right: Tensor
    hands: Tensor
    shoulders: Tensor

    @staticmethod
    def of(rig: FitRig) -> Told:
        device = rig.rest.device
        face = torch.zeros(len(KEYPOINTS), 1, device=device)
        face[torch.from_numpy(indices("lips_", "eyelids.", "iris.", "brows.", "nose.", "jaw."))] = 1.0
        left, right = (torch.tensor(side, device=device) for side in action_pairs(rig.action_names))
        hands = torch.tensor(rig.skeleton.index("wrist.L", "wrist.R"), device=device)
        shoulders = torch.tensor(rig.skeleton.index("upperarm01.L", "upperarm01.R"), device=device)
        return Told(face, action_costs(rig.action_names).to(device), left, right, hands, shoulders)


def track_loss(
    rig: FitRig,
    curves: Curves,
    weights: Tensor,
    bias: Tensor,
    targets: Tensor,
    weight: Tensor,
    see: Callable[[Tensor], Tensor],
    told: Told,
    config: SkeletonTrackConfig,
    real: Tensor | None = None,
) -> Tensor:
    """What the track descends: keypoints, openings, and what poses and face actions cost.

    weights (T,A), bias (M,3) mm; targets (T,M,2) px and their weight (T,M); see: points (T,M,3) -> px. real: as in
    `losses.frame_mean`.
    """
    points = slice(rig.n_base, rig.rest.shape[1])
    rotvecs, translation = curves()
    transforms, _ = bones(rig, rotvecs, translation)
    seen = see(place(_biased(rig, bias * told.face, points), transforms, weights))
    loss = point_loss(seen, targets, weight) + config.opening * opening_loss(seen, targets, weight)
    loss = loss + pose_prior(rig, rotvecs, translation, config, real)
    loss = loss + config.action_prior * frame_mean((weights.square() * told.rare).sum(-1), real)
    apart = weights[:, told.left] - weights[:, told.right]
    loss = loss + config.action_symmetry * frame_mean(apart.square().sum(-1), real)
    loss = loss + config.action_bounds * bounds_loss(weights, real) * weights.shape[1]
    loss = loss + config.face_bias * (bias.square().sum(-1) * told.face[:, 0]).mean()
    if len(weights) > 2:
        loss = loss + config.action_smooth * frame_mean(weights.diff(n=2, dim=0).square().sum(-1), real)
    if len(told.hands):
        joints = _joints(rig, transforms)
        behind = joints[:, told.hands, 1] - joints[:, told.shoulders, 1] + 0.08
        loss = loss + 20 * frame_mean(behind.relu().square(), real)
    return loss


@torch.no_grad()
def track_result(
    rig: FitRig, curves: Curves, weights: Tensor, targets: Tensor, weight: Tensor, camera: Camera
) -> Track:
    """What was found, and how far its keypoints are off. Raises UserError where it is not finite."""
    points = slice(rig.n_base, rig.rest.shape[1])
    rotvecs, translation = curves()
    transforms, _ = bones(rig, rotvecs, translation)
    seen = project(place(rig, transforms, weights, points=points), camera)
    error = (seen - targets.nan_to_num()).norm(dim=-1)
    error = (error * weight).sum(1) / weight.sum(1).clamp_min(1e-6)
    if not bool(torch.isfinite(rotvecs).all() and torch.isfinite(weights).all()):
        raise UserError("clip: the template track diverged (keypoints are not those of a person)")
    return Track(rotvecs, translation, weights.detach(), camera, error)


def _biased(rig: FitRig, bias_mm: Tensor, points: slice) -> FitRig:
    """The rig of the keypoints alone, moved by bias (M,3) mm at the canonical pose."""
    return replace(
        rig,
        rest=rig.rest[:, points] + 1e-3 * bias_mm.T,
        skin=rig.skin[:, points],
        actions=rig.actions[:, :, points],
    )


def _joints(rig: FitRig, transforms: Tensor) -> Tensor:
    """Places (T,R,3) of the joints."""
    m = transforms.view(*transforms.shape[:2], 4, 3)
    j = rig.skeleton.joints[..., None]
    return m[:, :, 0] * j[:, 0] + m[:, :, 1] * j[:, 1] + m[:, :, 2] * j[:, 2] + m[:, :, 3]
