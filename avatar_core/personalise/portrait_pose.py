"""Who stands where in a portrait: template shape, pose, expression and camera from what a detector saw, by maximum a posteriori.

The camera looks horizontally along +Y; its pitch and roll are part of the root's rotation. Its field of view is the one that the
picture's file tells, or is estimated along with the rest. Size and distance cannot be told apart in one picture: the prior on the
shape coefficients (one unit is one standard deviation of sampled adults) decides, so an average portrait gets an average stature.
A picture does not tell either whether a limb that looks short points towards the camera or away: the detector's guess of the limbs'
directions does, and joints that only bend one way.

Legend: K keypoints, S shape components, B bones, A face actions, L limbs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from avatar_core.geometry.camera import Camera
from avatar_core.geometry.rotations import matrix_from_rotvec
from avatar_core.template.landmarks import BODY_KEYPOINTS, FACE_POINTS, HAND_JOINTS, KEYPOINT_INDEX, KEYPOINTS
from avatar_core.template.mesh import Template
from avatar_core.template.pose import KeypointTemplate, keypoint_template, relaxed_rotvecs

FOV_DEG = 17.0  # a portrait lens: what 85 to 135 mm give on full frame
LOOK = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)  # world -> camera axes, looking along +Y
LIMBS: tuple[tuple[str, str], ...] = (
    ("shoulder.R", "shoulder.L"),
    ("shoulder.L", "elbow.L"),
    ("elbow.L", "wrist.L"),
    ("shoulder.R", "elbow.R"),
    ("elbow.R", "wrist.R"),
)
"""Pairs of keypoints whose direction in depth a detector may guess."""

# Spread (radians) of each bone's rotation about the relaxed stance; bones not listed stay there.
_SPREAD = {"root": 0.3, "spine04": 0.08, "spine02": 0.08, "neck01": 0.15, "head": 0.25, "clavicle": 0.12} | {
    "upperarm01": 0.5, "lowerarm01": 0.5, "lowerarm02": 0.3, "wrist": 0.3, "upperleg01": 0.12, "lowerleg01": 0.08
}  # fmt: skip
_FINGER_SPREAD = 0.3
_TAILS = 1.5  # spreads beyond which a turn of arms, legs and fingers costs only in proportion: people do fold their arms
_TAILED = ("upperarm", "lowerarm", "wrist", "finger", "upperleg", "lowerleg", "root", "head")
_SIGMA_M = {"body": 0.02, "hand": 0.010, "face": 0.0022}  # what a detector is off by, in metres at the person
_LIMB_SIGMA = 0.2  # of a limb's unit vector
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
_ELBOW, _ASIDE = (
    40.0,
    0.35,
)  # cost of an elbow that bends backwards, or aside by more than this, per squared share of the forearm
_INSIDE = 400.0  # cost per square metre of wrists and knuckles inside the trunk
_TRUNK_M = (0.13, 0.11)  # half width and depth of what they may not enter


@dataclass(frozen=True)
class Sighting:
    """What a detector saw of a person in a picture: keypoints xy (K,2) px with confidence (K,); limbs (L,3), directions of LIMBS as
    unit vectors in camera axes (x right, y down, z away) with limb_confidence (L,), zeros where unknown; fov_deg: the lens's field
    of view across the longer side, as the file tells or as assumed."""

    xy: np.ndarray
    confidence: np.ndarray
    limbs: np.ndarray
    limb_confidence: np.ndarray
    fov_deg: float

    @staticmethod
    def flat(xy: np.ndarray, confidence: np.ndarray, fov_deg: float = FOV_DEG) -> Sighting:
        """Keypoints alone, nothing known about depth."""
        return Sighting(xy, confidence, np.zeros((len(LIMBS), 3)), np.zeros(len(LIMBS)), fov_deg)


@dataclass(frozen=True)
class PortraitPose:
    """shape (S,), rotvecs (B,3), face_weights (A,) and the camera; error_px: weighted median keypoint error."""

    shape: np.ndarray
    rotvecs: np.ndarray
    face_weights: np.ndarray
    camera: Camera
    error_px: float


def fit_portrait_pose(
    sighting: Sighting, width: int, height: int, *, components: int = 50, steps: int = 260
) -> PortraitPose:
    """Fit the template to what was seen in an image of this size."""
    model = keypoint_template()
    template = model.template
    focal = max(width, height) / 2 / np.tan(np.radians(sighting.fov_deg) / 2)
    target = torch.from_numpy(np.asarray(sighting.xy, np.float32))
    weight = torch.from_numpy(np.asarray(sighting.confidence, np.float32)).clamp(0, 1) ** 2
    sigma = _sigmas()
    relaxed = torch.from_numpy(relaxed_rotvecs(template))
    spread = _spreads(template.bone_names)
    free = torch.nonzero(spread)[:, 0]
    tailed = torch.tensor([template.bone_names[int(b)].startswith(_TAILED) for b in free])
    limbs = _LimbPrior(sighting, model)

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
        body = model.keypoints(shape, rotvecs[None], None, actions[None])[0]
        points = body @ look.T + move
        depth = points[:, 2].clamp_min(0.2)
        projected = focal * points[:, :2] / depth[:, None] + centre
        error = (projected - target).norm(dim=-1)
        metres = error * depth.detach() / focal
        z = metres / sigma
        fit = torch.where(z < _OUTLIER, 0.5 * z * z, _OUTLIER * (z - 0.5 * _OUTLIER))
        # Expressions come late: until the head is in place they would explain its pose away.
        openness = 1.0 if step > steps // 3 else 8.0
        size = (turn.square().sum(1) + 1e-12).sqrt()
        far = tailed & (size > _TAILS)
        turned = torch.where(far, _TAILS * (size - 0.5 * _TAILS), 0.5 * size * size).sum()
        prior = 0.5 * (shape * shape).sum() + turned + openness * actions.sum() / _ACTION_SCALE
        loss = (weight * fit).sum() + prior + limbs.cost(body, points, rotvecs)
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


class _LimbPrior:
    """What keypoints do not tell of arms: directions in depth, elbows that bend one way, hands that stay outside the trunk."""

    def __init__(self, sighting: Sighting, model: KeypointTemplate) -> None:
        template: Template = model.template
        self.ends = torch.tensor([[KEYPOINT_INDEX[n] for n in pair] for pair in LIMBS])
        self.direction = torch.from_numpy(np.asarray(sighting.limbs, np.float32))
        self.weight = torch.from_numpy(np.asarray(sighting.limb_confidence, np.float32))
        bone = template.bone_index
        self.forearm = [bone[f"lowerarm01.{s}"] for s in "LR"]
        heads = torch.from_numpy(template.bone_heads)
        along = heads[[bone[f"wrist.{s}"] for s in "LR"]] - heads[self.forearm]
        upper = heads[self.forearm] - heads[[bone[f"upperarm01.{s}"] for s in "LR"]]
        # at rest the arms are a little bent, which tells the hinge of the elbow
        self.along, self.upper = normalize(along, dim=-1), normalize(upper, dim=-1)
        self.hinge = normalize(torch.linalg.cross(self.upper, self.along), dim=-1)
        self.hands = torch.tensor(
            [KEYPOINT_INDEX[f"hand.{p}.{s}"] for s in "LR" for p in ("wrist", "finger2-1", "finger5-1")]
        )
        self.pelvis, self.chest, self.neck = (KEYPOINT_INDEX[n] for n in ("pelvis", "chest", "neck"))
        self.shoulders = [KEYPOINT_INDEX[f"shoulder.{s}"] for s in "LR"]

    def cost(self, body: Tensor, points: Tensor, rotvecs: Tensor) -> Tensor:
        """body: keypoints (K,3) in the world, points: in camera axes; rotvecs (B,3)."""
        limb = points[self.ends[:, 1]] - points[self.ends[:, 0]]
        limb = limb / (limb.norm(dim=-1, keepdim=True) + 1e-6)
        guess = (self.weight * (limb - self.direction).square().sum(-1)).sum() / (2 * _LIMB_SIGMA**2)
        # in the upper arm's axes the forearm folds about the hinge, one way
        forearm = (matrix_from_rotvec(rotvecs[self.forearm]) @ self.along[..., None])[..., 0]
        fold = (torch.linalg.cross(self.upper, forearm) * self.hinge).sum(-1)
        aside = (forearm * self.hinge).sum(-1)
        elbow = (-0.05 - fold).clamp_min(0).square() + (aside.abs() - _ASIDE).clamp_min(0).square()
        # the trunk's own axes: up, to the person's left, forward
        up = body[self.neck] - body[self.pelvis]
        height = up.norm()
        up = up / height
        left = body[self.shoulders[0]] - body[self.shoulders[1]]
        left = left - (left @ up) * up
        left = left / left.norm()
        forward = torch.linalg.cross(left, up)
        hand = body[self.hands] - body[self.pelvis]
        level = (hand @ up) / height
        inside = ((level > -0.1) & (level < 1.0)).float()
        across, front = (hand @ left) / _TRUNK_M[0], (hand @ forward) / _TRUNK_M[1]
        deep = (1 - across.square() - front.square()).clamp_min(0) * inside
        return guess + _ELBOW * elbow.sum() + _INSIDE * (deep * _TRUNK_M[1]).square().sum()


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
