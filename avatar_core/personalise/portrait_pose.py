"""Who stands where in a portrait: template shape, pose, expression and camera from 2D keypoints, by maximum a posteriori.

Intrinsics are assumed (`FOV_DEG` across the longer side) and the camera looks horizontally along +Y; the person's own turn
is the root's rotation. Size and distance cannot be told apart in one picture: the prior on the shape coefficients (one unit
is one standard deviation of sampled adults) decides, so an average portrait gets an average stature.

Legend: K keypoints, S shape components, B bones, A face actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar_core.geometry.camera import Camera
from avatar_core.template.landmarks import BODY_KEYPOINTS, FACE_POINTS, HAND_JOINTS, KEYPOINT_INDEX, KEYPOINTS
from avatar_core.template.pose import keypoint_template, relaxed_rotvecs

FOV_DEG = 17.0  # a portrait lens: what 85 to 135 mm give on full frame
LOOK = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)  # world -> camera axes, looking along +Y

# Spread (radians) of each bone's rotation about the relaxed stance; bones not listed stay there.
_SPREAD = {"root": 0.3, "spine04": 0.08, "spine02": 0.08, "neck01": 0.15, "head": 0.25, "clavicle": 0.12} | {
    "upperarm01": 0.4, "lowerarm01": 0.4, "lowerarm02": 0.3, "wrist": 0.3, "upperleg01": 0.12, "lowerleg01": 0.08
}  # fmt: skip
_FINGER_SPREAD = 0.3
_SIGMA_M = {"body": 0.02, "hand": 0.010, "face": 0.0022}  # what a detector is off by, in metres at the person
_OUTLIER = 3.0  # errors beyond this many sigmas grow only linearly
_LOOSE = {
    "crown": 4.0,
    "pelvis": 2.0,
    "chest": 2.0,
    "neck": 1.5,
    "jaw.3.L": 2.0,
    "jaw.3.R": 2.0,
    "jaw.4.L": 3.0,
    "jaw.4.R": 3.0,
}
_ACTION_SCALE = 0.06


@dataclass(frozen=True)
class PortraitPose:
    """shape (S,), rotvecs (B,3), face_weights (A,) and the camera; error_px: weighted median keypoint error."""

    shape: np.ndarray
    rotvecs: np.ndarray
    face_weights: np.ndarray
    camera: Camera
    error_px: float


def fit_portrait_pose(
    xy: np.ndarray, confidence: np.ndarray, width: int, height: int, *, components: int = 50, steps: int = 260
) -> PortraitPose:
    """Fit the template to keypoints xy (K,2) in pixels with confidence (K,) of an image of this size."""
    model = keypoint_template()
    template = model.template
    focal = max(width, height) / 2 / np.tan(np.radians(FOV_DEG) / 2)
    target = torch.from_numpy(np.asarray(xy, np.float32))
    weight = torch.from_numpy(np.asarray(confidence, np.float32)).clamp(0, 1) ** 2
    sigma = _sigmas()
    relaxed = torch.from_numpy(relaxed_rotvecs(template))
    spread = _spreads(template.bone_names)
    free = torch.nonzero(spread)[:, 0]

    shape = torch.zeros(components)
    turn = torch.zeros(len(free), 3)
    actions = torch.zeros(len(template.face_action_names))
    look, centre = torch.from_numpy(LOOK), torch.tensor([width / 2, height / 2])
    start = model.keypoints(None, relaxed[None])[0] @ look.T
    move = _initial_move(start, target, weight, focal, centre)
    parameters = [shape, turn, actions, move]
    for p in parameters:
        p.requires_grad_()
    groups = [
        {"params": [shape], "lr": 0.06},
        {"params": [turn], "lr": 0.15},
        {"params": [actions], "lr": 0.012},
        {"params": [move], "lr": 0.02},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0)
    error = torch.zeros(len(KEYPOINTS))
    for step in range(steps):
        rotvecs = relaxed.index_add(0, free, turn * spread[free, None])
        points = model.keypoints(shape, rotvecs[None], None, actions[None])[0] @ look.T + move
        depth = points[:, 2].clamp_min(0.2)
        projected = focal * points[:, :2] / depth[:, None] + centre
        error = (projected - target).norm(dim=-1)
        metres = error * depth.detach() / focal
        z = metres / sigma
        fit = torch.where(z < _OUTLIER, 0.5 * z * z, _OUTLIER * (z - 0.5 * _OUTLIER))
        # Expressions come late: until the head is in place they would explain its pose away.
        openness = 1.0 if step > steps // 3 else 8.0
        prior = (
            0.5 * (shape * shape).sum() + 0.5 * (turn * turn).sum() + openness * actions.sum() / _ACTION_SCALE
        )
        loss = (weight * fit).sum() + prior
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            actions.clamp_(0, 1)
            move[2].clamp_(min=0.3)
    with torch.no_grad():
        rotvecs = relaxed.index_add(0, free, turn * spread[free, None])
        seen = weight > 0.1
        typical = float(error[seen].median()) if seen.any() else float("inf")
    viewmat = np.eye(4, dtype=np.float32)
    viewmat[:3, :3], viewmat[:3, 3] = LOOK, move.detach().numpy()
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
    return PortraitPose(
        shape=shape.detach().numpy(),
        rotvecs=rotvecs.numpy(),
        face_weights=actions.detach().numpy(),
        camera=Camera(viewmat, K, width, height),
        error_px=typical,
    )


def _initial_move(points: Tensor, target: Tensor, weight: Tensor, focal: float, centre: Tensor) -> Tensor:
    """Camera-space translation that puts points (K,3) roughly onto target (K,2): spread gives depth, means the rest."""
    share = weight / weight.sum().clamp_min(1e-6)

    def spread(value: Tensor) -> tuple[Tensor, Tensor]:
        middle = (share[:, None] * value).sum(0)
        return middle, (share[:, None] * (value - middle) ** 2).sum().sqrt()

    middle_m, size_m = spread(points[:, :2])
    middle_px, size_px = spread(target)
    depth = focal * size_m / size_px.clamp_min(1.0)
    xy = (middle_px - centre) * depth / focal - middle_m
    return torch.cat([xy, (depth - (share * points[:, 2]).sum())[None]]).detach().clone()


def _sigmas() -> Tensor:
    out = torch.full((len(KEYPOINTS),), _SIGMA_M["body"])
    for names, sigma in (
        (BODY_KEYPOINTS, _SIGMA_M["body"]),
        ((*HAND_JOINTS["L"], *HAND_JOINTS["R"]), _SIGMA_M["hand"]),
        (FACE_POINTS, _SIGMA_M["face"]),
    ):
        out[[KEYPOINT_INDEX[n] for n in names]] = sigma
    for name, factor in _LOOSE.items():
        out[KEYPOINT_INDEX[name]] *= factor
    return out


def _spreads(bone_names: tuple[str, ...]) -> Tensor:
    out = torch.zeros(len(bone_names))
    for b, name in enumerate(bone_names):
        stem = name.split(".")[0]
        out[b] = _FINGER_SPREAD if stem.startswith("finger") else _SPREAD.get(stem, 0.0)
    return out
