"""Where the template's keypoints lie on MediaPipe's points as far as a person can tell: the start that learning corrects.

Curves (lips, lids, brows, jaw) are given by the mesh points along them; a keypoint on one lies at its own share of the length.
"""

from __future__ import annotations

import numpy as np

from avatar_core.template.landmarks import BODY_KEYPOINTS, HAND_JOINTS, KEYPOINT_INDEX, KEYPOINTS

FACE, BODY, HANDS = (
    478,
    478,
    {"L": 511, "R": 532},
)  # how many face points; first source of body and of each hand
SOURCES = 553

# side: curve -> mesh points from its named start (lip corner, inner corner of the eye, chin) on
_CURVES: dict[str, dict[str, list[int]]] = {
    "L": {
        "lips_outer.upper": [291, 409, 270, 269, 267, 0],
        "lips_outer.lower": [291, 375, 321, 405, 314, 17],
        "lips_inner.upper": [308, 415, 310, 311, 312, 13],
        "lips_inner.lower": [308, 324, 318, 402, 317, 14],
        "eyelids.upper": [362, 398, 384, 385, 386, 387, 388, 466, 263],
        "eyelids.lower": [362, 382, 381, 380, 374, 373, 390, 249, 263],
        "jaw": [152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454],
    },
    "R": {
        "lips_outer.upper": [61, 185, 40, 39, 37, 0],
        "lips_outer.lower": [61, 146, 91, 181, 84, 17],
        "lips_inner.upper": [78, 191, 80, 81, 82, 13],
        "lips_inner.lower": [78, 95, 88, 178, 87, 14],
        "eyelids.upper": [133, 173, 157, 158, 159, 160, 161, 246, 33],
        "eyelids.lower": [133, 155, 154, 153, 145, 144, 163, 7, 33],
        "jaw": [152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234],
    },
}
_BROWS = {  # upper and lower edge
    "L": ([336, 296, 334, 293, 300], [285, 295, 282, 283, 276]),
    "R": ([107, 66, 105, 63, 70], [55, 65, 52, 53, 46]),
}
_SINGLE = {
    "iris.centre.L": 473,
    "iris.centre.R": 468,
    "nose.bridge": 168,
    "nose.ridge": 5,
    "nose.tip": 1,
    "nose.base": 2,
    "nose.ala.L": 358,
    "nose.ala.R": 129,
    "nose.nostril.L": 327,
    "nose.nostril.R": 98,
}
# body keypoint -> body points whose mean it is about, then others that may correct it
_JOINTS: dict[str, tuple[list[int], list[int]]] = {
    "pelvis": ([23, 24], [11, 12]),
    "chest": ([11, 12], [23, 24]),
    "neck": ([11, 12], []),
} | {
    f"{name}.{side}": ([own + (side == "R")], [n + (side == "R") for n in near])
    for name, own, near in (
        ("shoulder", 11, [13]),
        ("elbow", 13, [11, 15]),
        ("wrist", 15, [13, 17, 19]),
        ("hip", 23, [11]),
        ("knee", 25, [23, 27]),
        ("ankle", 27, [25, 29, 31]),
    )
    for side in "LR"
}
for _name in ("shoulder", "hip"):  # both sides tell where the middle is
    for _side in "LR":
        _JOINTS[f"{_name}.{_side}"][1].append(11 if _side == "R" else 12)
_HEAD = [10, 152, 234, 454, 1, 168, 33, 263]  # face points round the skull


def supports() -> dict[str, list[int]]:
    """Keypoint -> sources from which it may be made, besides mesh points near it; the first are those of `start`."""
    out: dict[str, list[int]] = {}
    for name, (own, near) in _JOINTS.items():
        out[name] = [BODY + i for i in own + near]
    out["neck"] += _HEAD
    out["head"] = [*_HEAD, BODY + 11, BODY + 12]
    out["crown"] = list(_HEAD)
    for side, first in HANDS.items():
        for i, name in enumerate(HAND_JOINTS[side]):
            near = {0: [1, 5, 9, 17]}.get(i, [i - 1 if i % 4 != 1 else 0, i + 1 if i % 4 else i - 2])
            out[name] = [first + j for j in (i, *near)]
    return out


def _share(curve: np.ndarray, at: float) -> tuple[int, float]:
    """Place `at` (0 to 1) of the length of a polyline (P,2) -> index of the point before it and the share beyond."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    along /= along[-1]
    k = int(np.clip(np.searchsorted(along, at, "right") - 1, 0, len(curve) - 2))
    return k, float((at - along[k]) / (along[k + 1] - along[k]))


def start(mesh: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Weights (K,S) by hand, from a mean mesh (478,2) and mean true keypoints (K,2) of faces seen from the front."""
    weights = np.zeros((len(KEYPOINTS), SOURCES))

    def put(name: str, points: list[int], amounts: list[float]) -> None:
        weights[KEYPOINT_INDEX[name]] = 0
        weights[KEYPOINT_INDEX[name], points] = amounts

    for side, curves in _CURVES.items():
        for curve, points in curves.items():
            group, _, edge = curve.partition(".")
            first = {"lips_outer": f"lips_outer.corner.{side}", "lips_inner": f"lips_inner.corner.{side}"}
            begin = first.get(group, f"eyelids.inner.{side}" if group == "eyelids" else "jaw.chin")
            end = f"{group}.{edge}" if group.startswith("lips") else f"eyelids.outer.{side}"
            names = [n for n in KEYPOINTS if n.startswith(curve) and n.endswith("." + side)]
            if group != "jaw":
                names.append(end)
            distance = [
                np.linalg.norm(truth[KEYPOINT_INDEX[n]] - truth[KEYPOINT_INDEX[begin]]) for n in names
            ]
            ordered = [begin, *[names[i] for i in np.argsort(distance)]]
            places = truth[[KEYPOINT_INDEX[n] for n in ordered]]
            length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
            whole = np.linalg.norm(np.diff(mesh[points], axis=0), axis=1).sum()
            share = length / (whole if group == "jaw" else length[-1])
            for name, at in zip(ordered, share.clip(0, 1), strict=True):
                k, beyond = _share(mesh[points], float(at))
                put(name, [points[k], points[k + 1]], [1 - beyond, beyond])
        for i, (upper, lower) in enumerate(zip(*_BROWS[side], strict=True)):
            put(f"brows.{i + 1}.{side}", [upper, lower], [0.5, 0.5])
    for name, point in _SINGLE.items():
        put(name, [point], [1.0])
    for name, (own, _) in _JOINTS.items():
        put(name, [BODY + i for i in own], [1 / len(own)] * len(own))
    put("head", [234, 454], [0.5, 0.5])
    put("crown", [10], [1.0])
    for side, first_source in HANDS.items():
        for i, name in enumerate(HAND_JOINTS[side]):
            put(name, [first_source + i], [1.0])
    assert np.allclose(weights.sum(1), 1) and len(BODY_KEYPOINTS) == 17
    return weights
