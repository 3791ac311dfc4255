"""Hands of a person whose body is known: from the body's wrists, and from palms seen near them.

Legend: as in `people`. A hand is accepted when the net says that there is one and its wrist lies near the body's wrist.
"""

from __future__ import annotations

import numpy as np

from avatar_core.perception.holistic.detect import detect
from avatar_core.perception.holistic.points import hand_pair, hand_points
from avatar_core.perception.holistic.regions import (
    Picture,
    hand_from_body,
    hand_from_pair,
    hand_from_palm,
    hand_from_points,
)

HAND_LEAST = 0.6  # presence from which a hand is one
WRIST_SEEN = 0.2  # visibility of the body's wrist from which its hand is looked for
WRIST_REACH = 0.8  # largest distance between hand's and body's wrist, in palm lengths
SIDES = {"L": (13, 15, 17, 19), "R": (14, 16, 18, 20)}  # elbow, wrist, little finger, index finger


def find_hands(
    picture: Picture, pose: np.ndarray, visibility: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Body points (33,2) and visibility (33,) -> hands "L", "R": (21,3) pixels and weak depth; their presence."""
    hands: dict[str, np.ndarray] = {}
    presence: dict[str, float] = {}
    sides = [s for s, (_, wrist, _, _) in SIDES.items() if visibility[wrist] > WRIST_SEEN]
    if not sides:
        return hands, presence
    index = np.array([SIDES[s] for s in sides])
    elbow, wrist, little, finger = (pose[index[:, k]] for k in range(4))
    wide = hand_from_body(wrist, little, finger)
    regions = [hand_from_pair(*hand_pair([picture] * len(sides), wide))]
    forearm = np.linalg.norm(wrist - elbow, axis=1)
    reach = np.maximum(1.6 * forearm, wide[:, 2])
    ahead = wrist + 0.3 * (wrist - elbow)
    squares = np.concatenate([ahead, reach[:, None], np.zeros((len(sides), 1))], 1)
    for seen in detect("palm", [picture] * len(sides), squares):
        if len(seen.score):
            regions.append(hand_from_palm(seen.box, seen.points))
    candidates = np.concatenate(regions)
    points, flag, _ = hand_points([picture] * len(candidates), candidates)
    points, flag, _ = hand_points([picture] * len(candidates), hand_from_points(points[..., :2]))
    for s, at in zip(sides, wrist, strict=True):
        palm = np.linalg.norm(points[:, 9, :2] - points[:, 0, :2], axis=1)
        gap = np.linalg.norm(points[:, 0, :2] - at, axis=1) / np.maximum(palm, 1e-6)
        others = [o for o in sides if o != s]
        nearest = np.ones(len(points), bool)
        for o in others:
            nearest &= gap * palm <= np.linalg.norm(points[:, 0, :2] - pose[SIDES[o][1]], axis=1)
        score = np.where((flag > HAND_LEAST) & (gap < WRIST_REACH) & nearest, flag - 0.2 * gap, -1.0)
        best = int(np.argmax(score))
        if score[best] > 0:
            hands[s], presence[s] = points[best], float(flag[best])
    return hands, presence
