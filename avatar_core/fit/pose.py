"""What a pose model would know of a fitted clip: bones and face actions, without the nodes' motion and the shading.

The pose-driven baseline learns from these. They are the skeleton and the 52 weights as the fit left them, carried by linear blend
skinning: what LHM or PERSONA are driven with, on the same particles.

Shapes: T frames, R bones, A = 52 actions, K nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from avatar_core.fit.align import displaced
from avatar_core.fit.rig import FitRig, bones, orient, place
from avatar_core.geometry.rotations import quat_mul
from avatar_core.particles.deformation import Deformation, LocalFrames
from avatar_core.particles.layout import ParticleLayout


@dataclass(frozen=True)
class Pose:
    """rotvecs (T,R,3) rad, translation (T,3) m and actions (T,A) on the skeleton of the clip's framing; displacement (K,3) m of
    the nodes at the canonical pose, the same over the clip. float32."""

    rotvecs: np.ndarray
    translation: np.ndarray
    actions: np.ndarray
    displacement: np.ndarray

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray]) -> Pose:
        """From arrays of its names; others are ignored."""
        return Pose(*(np.asarray(arrays[name], np.float32) for name in Pose.__dataclass_fields__))


@torch.no_grad()
def pose_deformation(pose: Pose, rig: FitRig, layout: ParticleLayout) -> Deformation:
    """dG of a clip's T frames as bones and face actions alone make it; colours stay. rig: of the person under the clip's framing.

    Locked by test_pose_is_the_fit_without_its_nodes.
    """
    rig = displaced(rig, torch.from_numpy(pose.displacement))
    actions = torch.from_numpy(pose.actions)
    transforms, quats = bones(rig, torch.from_numpy(pose.rotvecs), torch.from_numpy(pose.translation))
    means = place(rig, transforms, actions, points=slice(0, rig.n_base))
    turned = torch.nn.functional.normalize(orient(rig, quats, actions), dim=-1)
    deformation = LocalFrames(rig.canonical, layout).decompose(means, quat_mul(turned, rig.quats))
    return Deformation(deformation.mean_offset, deformation.rotation, torch.zeros_like(means))
