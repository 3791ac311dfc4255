"""From COCO-WholeBody's points (DWPose, RTMW; OpenPose's after a change of order) to the template's keypoints.

A table of places by name: most are the same place, some lie between two, four of the trunk and skull are read off the template's
proportions. It is not learnt, so it is off by what two definitions differ: millimetres in the face, more at hips and jaw.

Legend: N pictures, S = 135 sources: 17 body, 6 feet, 68 face (iBUG's order), 21 left hand, 21 right hand, 2 pupils (right, left).
K keypoints.
"""

from __future__ import annotations

import functools

import numpy as np

from avatar_core.template.landmarks import KEYPOINT_INDEX, KEYPOINTS, indices

WHOLEBODY, SOURCES = 133, 135
FACE, HANDS, PUPILS = 23, {"L": 91, "R": 112}, {"R": 133, "L": 134}
# keypoint of the person's right -> iBUG points and weights; `_mirrored` has the left ones
_FACE: dict[str, dict[int, float]] = {
    "lips_outer.corner": {48: 1}, "lips_outer.upper1": {50: 1}, "lips_outer.upper2": {50: 0.4, 49: 0.6},
    "lips_outer.upper3": {49: 0.75, 48: 0.25}, "lips_outer.lower1": {58: 1}, "lips_outer.lower2": {58: 0.3, 59: 0.7},
    "lips_outer.lower3": {59: 0.8, 48: 0.2}, "lips_inner.corner": {60: 1}, "lips_inner.upper1": {62: 0.4, 61: 0.6},
    "lips_inner.upper2": {61: 1}, "lips_inner.upper3": {61: 0.5, 60: 0.5}, "lips_inner.lower1": {66: 0.4, 67: 0.6},
    "lips_inner.lower2": {67: 1}, "lips_inner.lower3": {67: 0.5, 60: 0.5},
    "eyelids.inner": {39: 1}, "eyelids.outer": {36: 1}, "eyelids.upper1": {39: 0.35, 38: 0.65},
    "eyelids.upper2": {38: 0.5, 37: 0.5}, "eyelids.upper3": {37: 0.65, 36: 0.35}, "eyelids.lower1": {39: 0.35, 40: 0.65},
    "eyelids.lower2": {40: 0.5, 41: 0.5}, "eyelids.lower3": {41: 0.65, 36: 0.35},
    "iris.centre": {37: 0.25, 38: 0.25, 40: 0.25, 41: 0.25},
    "brows.1": {21: 1}, "brows.2": {20: 1}, "brows.3": {19: 1}, "brows.4": {18: 1}, "brows.5": {17: 1},
    "nose.ala": {31: 1}, "nose.nostril": {31: 0.5, 32: 0.5},
    "jaw.1": {5: 0.5, 6: 0.5}, "jaw.2": {4: 1}, "jaw.3": {2: 1}, "jaw.4": {0: 1},
}  # fmt: skip
_MIDDLE: dict[str, dict[int, float]] = {
    "lips_outer.upper": {51: 1}, "lips_outer.lower": {57: 1}, "lips_inner.upper": {62: 1}, "lips_inner.lower": {66: 1},
    "nose.bridge": {27: 0.25, 28: 0.75}, "nose.ridge": {29: 1}, "nose.tip": {30: 1}, "nose.base": {33: 1}, "jaw.chin": {8: 1},
}  # fmt: skip
_JOINTS = {"shoulder": 5, "elbow": 7, "wrist": 9, "hip": 11, "knee": 13, "ankle": 15}  # left; right follows
_SHOULDERS, _HIPS, _EARS = (5, 6), (11, 12), (3, 4)
_TRUNK: dict[
    str, dict[tuple[int, int], float]
] = {  # by height in the template, between shoulders, hips and ears
    "pelvis": {_HIPS: 1.0},
    "chest": {_SHOULDERS: 0.53, _HIPS: 0.47},
    "neck": {_SHOULDERS: 0.58, _EARS: 0.42},
    "head": {_SHOULDERS: 0.14, _EARS: 0.86},
    "crown": {_SHOULDERS: -0.53, _EARS: 1.53},
}
TRUST = {
    "neck": 0.7,
    "head": 0.7,
    "crown": 0.3,
    "iris.": 0.3,
    "jaw.": 0.5,
}  # of the places that are least alike
# iBUG point -> its mirror image
_MIRROR = {
    **{k: 16 - k for k in range(17)}, **{k: 43 - k for k in range(17, 27)}, **{k: k for k in range(27, 31)},
    **{k: 66 - k for k in range(31, 36)}, 36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46,
    42: 39, 43: 38, 44: 37, 45: 36, 46: 41, 47: 40,
    48: 54, 49: 53, 50: 52, 51: 51, 57: 57, 58: 56, 59: 55, 60: 64, 61: 63, 62: 62, 66: 66, 67: 65,
}  # fmt: skip


@functools.cache
def wholebody_map() -> tuple[np.ndarray, np.ndarray]:
    """Weights (K,S), whose rows sum to one, and trust (K,)."""
    places: dict[str, dict[int, float]] = {}
    for name, parts in _MIDDLE.items():
        places[name] = {FACE + k: w for k, w in parts.items()}
    for name, parts in _FACE.items():
        places[f"{name}.R"] = {FACE + k: w for k, w in parts.items()}
        places[f"{name}.L"] = {FACE + _MIRROR[k]: w for k, w in parts.items()}
    for name, pairs in _TRUNK.items():
        places[name] = {k: w / 2 for pair, w in pairs.items() for k in pair}
    for side, further in (("L", 0), ("R", 1)):
        places |= {f"{name}.{side}": {first + further: 1.0} for name, first in _JOINTS.items()}
        hand = [k for k in indices("hand.") if KEYPOINTS[k].endswith("." + side)]
        places |= {KEYPOINTS[k]: {HANDS[side] + j: 1.0} for j, k in enumerate(hand)}
    weights, trust = np.zeros((len(KEYPOINTS), SOURCES)), np.ones(len(KEYPOINTS))
    for k, name in enumerate(KEYPOINTS):
        weights[k, list(places[name])] = list(places[name].values())
        trust[k] = next((t for start, t in TRUST.items() if name.startswith(start)), 1.0)
    return weights, trust


def template_keypoints(
    points: np.ndarray, scores: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sources (N,S,2) px and scores (N,S) of pictures of width x height -> pixels (N,K,2) float32, confidence (N,K) in [0,1].

    A keypoint is as sure as the least sure of what it is made of; 0 outside the picture.
    """
    weights, trust = wholebody_map()
    sure = np.where(weights[None] != 0, scores[:, None], np.inf).min(-1) * trust
    xy = np.einsum("ks,nsc->nkc", weights, points)
    for side, pupil in PUPILS.items():  # the middle of the eye serves where the pupil is not seen
        seen, iris = scores[:, pupil] > 0, KEYPOINT_INDEX[f"iris.centre.{side}"]
        xy[seen, iris], sure[seen, iris] = points[seen, pupil], scores[seen, pupil]
    inside = ((xy >= 0) & (xy < [width, height])).all(-1)
    return xy.astype(np.float32), (sure * inside).clip(0, 1).astype(np.float32)
