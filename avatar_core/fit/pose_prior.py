"""What a pose of the fit's skeleton costs: leaving the canonical pose, speed, acceleration, and limbs that bend in their middle.

Source: priors as in video-based human pose fitting (SMPLify, Bogo et al. 2016, over all frames at once).
Shapes: T frames, R bones, H second halves of long bones.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from avatar_core.fit.config import SkeletonTrackConfig
from avatar_core.fit.losses import frame_mean
from avatar_core.fit.rig import FitRig

SLOW = ("root", "spine04", "spine02", "neck01", "clavicle.L", "clavicle.R", "upperleg01.L", "upperleg01.R")
# Cost of a radian squared: twists and trunk stay near the canonical pose unless the picture insists.
_STIFFNESS = {
    "root": 0.3, "spine": 0.3, "clavicle": 0.3, "neck": 0.3, "upperarm02": 0.02, "lowerarm02": 0.02, "finger": 0.04,
    "upperleg": 0.1, "lowerleg": 0.1, "foot": 0.1,
}  # fmt: skip
# The second half of a long bone turns about its length alone, up to the bone's end: no arm bends in between.
_HALVES = {"upperarm02": "lowerarm01", "lowerarm02": "wrist"}
_BEND_COST = 20.0  # of a radian squared


@lru_cache(maxsize=16)
def _halves(names: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Second halves of long bones (H,) and the bones at their ends; made once, as `_openings`."""
    pairs = [(f"{half}.{side}", f"{end}.{side}") for half, end in _HALVES.items() for side in "LR"]
    found = [(names.index(half), names.index(end)) for half, end in pairs if half in names]
    half, end = torch.tensor(found, dtype=torch.int64, device=device).reshape(-1, 2).T
    return half, end


def bend_cost(rig: FitRig, rotvecs: Tensor, real: Tensor | None = None) -> Tensor:
    """Cost of turning second halves of long bones but about their length. real: as in `losses.frame_mean`.

    Locked by test_the_second_half_of_an_arm_may_twist_and_not_bend.
    """
    half, end = _halves(rig.skeleton.names, rotvecs.device)
    joints = rig.skeleton.joints
    along = torch.nn.functional.normalize(joints[end] - joints[half], dim=-1)
    turn = rotvecs[:, half]
    bend = turn - (turn * along).sum(-1, keepdim=True) * along
    return 2 * _BEND_COST * frame_mean(bend.square().sum((-1, -2)), real)


@lru_cache(maxsize=16)
def _pose_costs(names: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Costs of the bones (R,) and of the axes (3,), and which bones are slow; made once, as `_openings`."""
    stiff = [next((v for k, v in _STIFFNESS.items() if n.startswith(k)), 3e-3) for n in names]
    slow = [i for i, name in enumerate(names) if name in SLOW]
    return (
        torch.tensor(stiff, device=device),
        torch.tensor([2.0, 60.0, 2.0], device=device),
        torch.tensor(slow, dtype=torch.int64, device=device),
    )


def pose_prior(
    rig: FitRig, rotvecs: Tensor, translation: Tensor, config: SkeletonTrackConfig, real: Tensor | None = None
) -> Tensor:
    """Cost of leaving the canonical pose, of speed and of acceleration. real: as in `losses.frame_mean`.

    A trunk that leans forward and back hardly changes the picture, so half a pixel of keypoint noise would swing it, and the
    head with it, in depth: the speed of trunk bones is penalised.
    """
    stiff, axes, slow = _pose_costs(rig.skeleton.names, rotvecs.device)
    loss = 2 * frame_mean(rotvecs.square().sum(-1) * stiff, real) + bend_cost(rig, rotvecs, real)
    loss = loss + frame_mean((translation.square() * axes).sum(-1), real)
    if len(rotvecs) > 2:
        speed, bend = rotvecs.diff(dim=0), rotvecs.diff(n=2, dim=0)
        loss = loss + config.trunk_speed * frame_mean(speed[:, slow].square().sum((-1, -2)), real)
        quick = frame_mean(speed.square().sum(-1), real) + 3 * frame_mean(bend.square().sum(-1), real)
        loss = loss + config.pose_smooth * quick
        loss = loss + 300 * frame_mean(translation.diff(n=2, dim=0).square().sum(-1), real)
    return loss
