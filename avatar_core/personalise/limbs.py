"""What keypoints do not tell of arms: directions in depth, elbows that bend one way, hands that stay outside the trunk.

Legend: T candidate poses, K keypoints, B bones, L limbs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from avatar_core.geometry.rotations import matrix_from_rotvec
from avatar_core.template.landmarks import KEYPOINT_INDEX
from avatar_core.template.pose import KeypointTemplate

LIMBS: tuple[tuple[str, str], ...] = (
    ("shoulder.R", "shoulder.L"),
    ("shoulder.L", "elbow.L"),
    ("elbow.L", "wrist.L"),
    ("shoulder.R", "elbow.R"),
    ("elbow.R", "wrist.R"),
)
"""Pairs of keypoints whose direction in depth a detector may guess."""

LIMB_SIGMA = 0.2  # of a limb's unit vector
ELBOW = (
    9.0  # residual of an elbow that bends backwards, or aside by more than ASIDE, per share of the forearm
)
ASIDE = 0.35
INSIDE = 28.0  # residual per metre of wrists and knuckles inside the trunk
TRUNK_M = (0.13, 0.11)  # half width and depth of what they may not enter


class LimbPrior:
    """directions (L,3): unit vectors of LIMBS in camera axes; confidence (L,), 0 where unknown."""

    def __init__(self, directions: np.ndarray, confidence: np.ndarray, model: KeypointTemplate) -> None:
        template = model.template
        self.ends = torch.tensor([[KEYPOINT_INDEX[n] for n in pair] for pair in LIMBS])
        self.direction = torch.from_numpy(np.asarray(directions, np.float32))
        self.weight = torch.from_numpy(np.asarray(confidence, np.float32))[:, None].sqrt() / LIMB_SIGMA
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
        self.pelvis, self.neck = KEYPOINT_INDEX["pelvis"], KEYPOINT_INDEX["neck"]
        self.shoulders = [KEYPOINT_INDEX[f"shoulder.{s}"] for s in "LR"]

    def residuals(self, body: Tensor, seen: Tensor, rotvecs: Tensor) -> Tensor:
        """Keypoints (T,K,3) in the world and in camera axes, rotvecs (T,B,3) -> residuals (T,R), each of unit variance."""
        limb = normalize(seen[:, self.ends[:, 1]] - seen[:, self.ends[:, 0]], dim=-1)
        guess = self.weight * (limb - self.direction)
        # in the upper arm's axes the forearm folds about the hinge, one way
        forearm = (matrix_from_rotvec(rotvecs[:, self.forearm]) @ self.along[..., None])[..., 0]
        fold = (torch.linalg.cross(self.upper.expand_as(forearm), forearm) * self.hinge).sum(-1)
        aside = (forearm * self.hinge).sum(-1)
        elbow = torch.cat([(-0.05 - fold).clamp_min(0), (aside.abs() - ASIDE).clamp_min(0)], 1)
        # the trunk's own axes: up, to the person's left, forward
        spine = body[:, self.neck] - body[:, self.pelvis]
        height = spine.norm(dim=-1, keepdim=True)
        up = spine / height
        left = body[:, self.shoulders[0]] - body[:, self.shoulders[1]]
        left = normalize(left - (left * up).sum(-1, keepdim=True) * up, dim=-1)
        forward = torch.linalg.cross(left, up)
        hand = body[:, self.hands] - body[:, self.pelvis, None]
        level, across, front = ((hand * axis[:, None]).sum(-1) for axis in (up / height, left, forward))
        within = (across / TRUNK_M[0]).square() + (front / TRUNK_M[1]).square()
        deep = (1 - within).clamp_min(0) * TRUNK_M[1] * ((level > -0.1) & (level < 1.0))
        return torch.cat([guess.flatten(1), ELBOW * elbow, INSIDE * deep], 1)
