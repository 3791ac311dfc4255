"""How far each arm of a portrait may gesture: as its texture was seen, and as it is near the stance that motion was learnt in.

Legend: B bones, N base particles.
"""

from __future__ import annotations

import numpy as np

from avatar_core.particles.layout import REGIONS, ParticleLayout
from avatar_core.template.mesh import Template
from avatar_core.template.pose import bone_transforms, relaxed_rotvecs

NEAR_DEG, FAR_DEG = 22.0, 50.0  # of an arm's bones from the relaxed stance: as learnt, and least
LEAST = 0.2  # of an arm far from it
HIDDEN = 0.3  # of an arm whose hand the portrait does not show
SEEN = 0.15  # share of a hand's particles that show when it is turned to the viewer at all
TOUCH_M = 0.17  # between wrists, or from a wrist to the middle of the head: they hold together


def arm_freedom(
    template: Template, layout: ParticleLayout, shape: np.ndarray, stance: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """(2,) of the left and the right arm in [0, 1]. stance (B,3) of the portrait; seen (N,): the portrait shows the particle."""
    _, heads = template.rest(shape)
    joints = []
    for rotvecs in (relaxed_rotvecs(template), stance):
        transforms = bone_transforms(heads, rotvecs, None, template)
        at = np.einsum("bij,bj->bi", transforms[:, :, :3], heads) + transforms[:, :, 3]
        chest = transforms[template.bone_index["spine02"], :, :3]
        joints.append((at @ chest, at))
    out = []
    for side in "LR":
        bones = [template.bone_index[f"{name}.{side}"] for name in ("upperarm01", "lowerarm01", "wrist")]
        relaxed, posed = (_directions(local[bones]) for local, _ in joints)
        angle = np.degrees(np.arccos(np.clip((relaxed * posed).sum(1), -1, 1))).max()
        free = float(np.interp(angle, (NEAR_DEG, FAR_DEG), (1.0, LEAST)))
        hand = layout.region == REGIONS["hand_left" if side == "L" else "hand_right"]
        if seen[hand].mean() < SEEN:
            free = min(free, HIDDEN)
        place = joints[1][1]
        wrist, other = (place[template.bone_index[f"wrist.{s}"]] for s in (side, "LR".replace(side, "")))
        brow = place[[template.bone_index["eye.L"], template.bone_index["eye.R"]]].mean(0)
        if min(np.linalg.norm(wrist - other), np.linalg.norm(wrist - brow)) < TOUCH_M:
            free = 0.0
        out.append(free)
    return np.array(out, np.float32)


def _directions(joints: np.ndarray) -> np.ndarray:
    along = np.diff(joints, axis=0)
    return along / np.linalg.norm(along, axis=1, keepdims=True)
