"""From the nets' points to the template's keypoints: an affine combination of a few points each, learnt on renders.

Legend: N pictures, S sources (478 face, 33 body, 21 left and 21 right hand), K keypoints, P points a keypoint is made of.
"""

from __future__ import annotations

import functools

import numpy as np

from avatar_core.errors import UserError
from avatar_core.io.checkpoints import load_checkpoint
from avatar_core.perception.holistic.graph import ASSETS
from avatar_core.template.landmarks import BODY_KEYPOINTS, KEYPOINT_INDEX, KEYPOINTS, indices

HAND_FIRST = {"L": 511, "R": 532}
BODY_FIRST, SOURCES = 478, 553
JOINTS = {  # keypoint -> body points that say whether it is seen
    "pelvis": (23, 24),
    "chest": (11, 12),
    "neck": (11, 12),
} | {
    f"{name}.{side}": (first + (side == "R"),)
    for name, first in (
        ("shoulder", 11),
        ("elbow", 13),
        ("wrist", 15),
        ("hip", 23),
        ("knee", 25),
        ("ankle", 27),
    )
    for side in "LR"
}
SKULL = 0.7  # trust in head and crown, which hair hides
EARS = (234, 454)  # mesh points before the person's right and left ear
JAW_HIDDEN = 0.25  # trust in the jaw's outline on a side that is turned away


@functools.cache
def keypoint_map() -> tuple[np.ndarray, np.ndarray]:
    """Sources (K,P) and their weights (K,P). Raises UserError when the asset is damaged."""
    path = ASSETS / "keypoint_map.safetensors"
    tensors, _ = load_checkpoint(path, hint="restore the versioned asset")
    index, weight = tensors["index"].numpy().astype(np.int64), tensors["weight"].numpy().astype(np.float64)
    if index.shape != weight.shape or len(index) != len(KEYPOINTS) or index.max() >= SOURCES:
        raise UserError(f"{path}: expected {len(KEYPOINTS)} keypoints, found {len(index)}; restore the asset")
    return index, weight


def template_keypoints(
    face: np.ndarray,
    face_presence: np.ndarray,
    pose: np.ndarray,
    pose_visibility: np.ndarray,
    hands: dict[str, np.ndarray],
    hand_presence: dict[str, np.ndarray],
    width: int,
    height: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Points of N pictures of width x height (fields of `people.Person`, N first) -> pixels (N,K,2) float32, confidence (N,K).

    Confidence is 0 for what lies outside the picture or was not found.
    """
    count = len(face)
    sources = np.concatenate([face[..., :2], pose, hands["L"][..., :2], hands["R"][..., :2]], 1)
    index, weight = keypoint_map()
    xy = np.einsum("nkpc,kp->nkc", sources[:, index], weight)
    trust = np.zeros((count, len(KEYPOINTS)))
    trust[:, indices("lips_", "eyelids.", "iris.", "brows.", "nose.", "jaw.")] = face_presence[:, None]
    for side, far in _jaw_turned(face).items():
        jaw = [k for k in indices("jaw.") if KEYPOINTS[k].endswith("." + side)]
        trust[:, jaw] *= 1 - (1 - JAW_HIDDEN) * far[:, None]
    for name in BODY_KEYPOINTS:
        k = KEYPOINT_INDEX[name]
        trust[:, k] = pose_visibility[:, JOINTS[name]].min(1) if name in JOINTS else SKULL * face_presence
    trust[:, KEYPOINT_INDEX["neck"]] *= face_presence
    for side in "LR":
        own = [k for k in indices("hand.") if KEYPOINTS[k].endswith("." + side)]
        trust[:, own] = hand_presence[side][:, None]
    for side in "LR":  # a hand says more exactly where its wrist is
        wrist, own = KEYPOINT_INDEX[f"wrist.{side}"], KEYPOINT_INDEX[f"hand.wrist.{side}"]
        better = hand_presence[side] > 0
        xy[better, wrist] = xy[better, own]
        trust[better, wrist] = np.maximum(trust[better, wrist], trust[better, own])
    inside = ((xy >= 0) & (xy < [width, height])).all(-1)
    return xy.astype(np.float32), (trust * inside).clip(0, 1).astype(np.float32)


def _jaw_turned(face: np.ndarray) -> dict[str, np.ndarray]:
    """Side -> how far (N,) it is turned away, 0 from the front to 1 at 35 degrees and more, from the mesh's depth."""
    right, left = face[:, EARS[0]], face[:, EARS[1]]
    across = np.linalg.norm(left[:, :2] - right[:, :2], axis=1)
    yaw = np.arctan2(right[:, 2] - left[:, 2], np.maximum(across, 1e-6))  # positive: the left side is nearer
    amount = yaw / np.radians(35)
    return {"R": (-amount).clip(0, 1), "L": amount.clip(0, 1)}
