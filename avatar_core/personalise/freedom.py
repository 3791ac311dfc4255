"""How far each arm of a portrait may gesture: as its texture was seen, and as it is near the stance that motion was learnt in.

Legend: B bones, N base particles, K keypoints.
"""

from __future__ import annotations

import cv2
import numpy as np

from avatar_core.geometry.camera import Camera
from avatar_core.particles.layout import ParticleLayout
from avatar_core.personalise.sleeves import find_arms
from avatar_core.personalise.surface import silhouette
from avatar_core.template.landmarks import HAND_JOINTS, indices
from avatar_core.template.mesh import Template
from avatar_core.template.pose import bone_transforms, relaxed_rotvecs

NEAR_DEG, FAR_DEG = 22.0, 50.0  # of an arm's bones from the relaxed stance: as learnt, and least
LEAST = 0.12  # of an arm far from it
# Share of an upper arm's, a forearm's and a hand's particles that the portrait shows: from nothing worth the name to what an arm
# seen from the side has, and what the arm may then do at least. What turns into view beyond is completed, not known.
SHOWN = {"upper": (0.0, 0.2, 0.3), "fore": (0.02, 0.28, 0.12), "hand": (0.05, 0.2, 0.2)}
HOLDING = 0.0  # of an arm whose hand touches something that is neither body nor cloth near it
OBJECT_M2 = 0.02  # the least that counts as such
REACH_M = 0.05  # from the hand's joints
# Confidence of a hand's keypoints: hidden (in a pocket, round a bag's handle), and found.
HIDDEN, FOUND = (0.15, 0.2), (0.4, 1.0)
TOUCH_M, APART_M = (
    0.16,
    0.22,
)  # between wrists, or from a wrist to the middle of the head: they hold together, they do not


def arm_freedom(
    template: Template,
    layout: ParticleLayout,
    shape: np.ndarray,
    stance: np.ndarray,
    seen: np.ndarray,
    confidence: np.ndarray,
    holding: np.ndarray,
) -> np.ndarray:
    """(2,) of the left and the right arm in [0, 1]. stance (B,3) of the portrait; seen (N,): the portrait shows the particle;
    confidence (K,) of keypoints; holding (2,): see `held_things`."""
    _, heads = template.rest(shape)
    joints = []
    for rotvecs in (relaxed_rotvecs(template), stance):
        transforms = bone_transforms(heads, rotvecs, None, template)
        at = np.einsum("bij,bj->bi", transforms[:, :, :3], heads) + transforms[:, :, 3]
        chest = transforms[template.bone_index["spine02"], :, :3]
        joints.append((at @ chest, at))
    out = []
    course = find_arms(template, layout)
    for k, (side, held) in enumerate(zip("LR", holding, strict=True)):
        bones = [template.bone_index[f"{name}.{side}"] for name in ("upperarm01", "lowerarm01", "wrist")]
        relaxed, posed = (_directions(local[bones]) for local, _ in joints)
        angle = np.degrees(np.arccos(np.clip((relaxed * posed).sum(1), -1, 1))).max()
        free = float(np.interp(angle, (NEAR_DEG, FAR_DEG), (1.0, LEAST)))
        for part, (none, enough, least) in enumerate(SHOWN.values()):
            share = seen[course.part == 1 + 3 * k + part].mean()
            free = min(free, float(np.interp(share, (none, enough), (least, 1.0))))
        trust = confidence[indices(*HAND_JOINTS[side])].mean()
        free = min(free, float(np.interp(trust, (HIDDEN[0], FOUND[0]), (HIDDEN[1], FOUND[1]))))
        place = joints[1][1]
        wrist, other = (place[template.bone_index[f"wrist.{s}"]] for s in (side, "LR".replace(side, "")))
        brow = place[[template.bone_index["eye.L"], template.bone_index["eye.R"]]].mean(0)
        gap = min(np.linalg.norm(wrist - other), np.linalg.norm(wrist - brow))
        free *= float(np.interp(gap, (TOUCH_M, APART_M), (0.0, 1.0)))
        if held:
            free = min(free, HOLDING)
        out.append(free)
    return np.array(out, np.float32)


def held_things(
    template: Template,
    vertices: np.ndarray,
    shape: np.ndarray,
    stance: np.ndarray,
    camera: Camera,
    core: np.ndarray,
) -> np.ndarray:
    """(2,) bool, left and right: does that hand touch a part of the person's mask (H,W) that the surface (V,3) does not explain,
    such as a bag? Hands out of the picture touch nothing."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    covered = cv2.dilate(silhouette(vertices, template.faces, camera).astype(np.uint8), kernel)
    bare = cv2.morphologyEx((core & (covered == 0)).astype(np.uint8), cv2.MORPH_OPEN, kernel)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bare, connectivity=8)
    _, heads = template.rest(shape)
    transforms = bone_transforms(heads, stance, None, template)
    joints = np.einsum("bij,bj->bi", transforms[:, :, :3], heads) + transforms[:, :, 3]
    out = np.zeros(2, bool)
    for k, side in enumerate("LR"):
        hand = [b for n, b in template.bone_index.items() if n.startswith("finger") and n.endswith(side)]
        xy, depth = camera.project(joints[hand])
        metre = float(camera.K[0, 0] / depth.mean())  # in pixels
        x0, y0 = np.floor(xy.min(0) - REACH_M * metre).astype(int).clip(0)
        x1, y1 = np.ceil(xy.max(0) + REACH_M * metre).astype(int).clip(0)
        near = np.unique(labels[y0:y1, x0:x1])
        out[k] = any(stats[i, cv2.CC_STAT_AREA] > OBJECT_M2 * metre**2 for i in near if i > 0)
    return out


def _directions(joints: np.ndarray) -> np.ndarray:
    along = np.diff(joints, axis=0)
    return along / np.linalg.norm(along, axis=1, keepdims=True)
