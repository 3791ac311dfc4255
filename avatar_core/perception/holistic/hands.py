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
WRIST_REACH = 0.13  # m, largest distance between the hand's and the body's wrist
PALM_VIEWS = (0.45, 0.8)  # m, sides of the squares in which palms are looked for
PALM_LEAST = 0.3
SIDES = {"L": (13, 15, 17, 19), "R": (14, 16, 18, 20)}  # elbow, wrist, little finger, index finger
RIGID = ((11, 12), (11, 23), (12, 24), (23, 24), (0, 11), (0, 12))  # pairs that hardly bend


def pixels_per_metre(pose: np.ndarray, world: np.ndarray) -> float:
    """How large the person is, from body points (33,2) px and (33,3) m: the pair seen most from the side."""
    pairs = np.array(RIGID)
    px = np.linalg.norm(pose[pairs[:, 0]] - pose[pairs[:, 1]], axis=1)
    metres = np.linalg.norm(world[pairs[:, 0]] - world[pairs[:, 1]], axis=1)
    return float(np.median(np.sort(px / np.maximum(metres, 0.05))[-4:]))


def find_hands(
    picture: Picture, pose: np.ndarray, visibility: np.ndarray, world: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Body points (33,2) px, visibility (33,), (33,3) m -> hands "L", "R": (21,3) pixels and weak depth; their presence."""
    hands: dict[str, np.ndarray] = {}
    presence: dict[str, float] = {}
    sides = [s for s, (_, wrist, _, _) in SIDES.items() if visibility[wrist] > WRIST_SEEN]
    if not sides:
        return hands, presence
    scale = pixels_per_metre(pose, world)
    index = np.array([SIDES[s] for s in sides])
    _, wrist, little, finger = (pose[index[:, k]] for k in range(4))
    wide = hand_from_body(wrist, little, finger)
    regions = [hand_from_pair(*hand_pair([picture] * len(sides), wide))]
    middle = (wrist + (2 * finger + little) / 3) / 2
    count = len(sides)
    squares = np.concatenate(
        [np.column_stack([middle, np.full(count, view * scale), np.zeros(count)]) for view in PALM_VIEWS]
    )
    for seen in detect("palm", [picture] * len(squares), squares, PALM_LEAST):
        if len(seen.score):
            regions.append(hand_from_palm(seen.box, seen.points))
    candidates = np.concatenate(regions)
    points, flag, right = hand_points([picture] * len(candidates), candidates)
    candidates = hand_from_points(points[..., :2])
    points, flag, right = hand_points([picture] * len(candidates), candidates)
    gap = {s: np.linalg.norm(points[:, 0, :2] - pose[SIDES[s][1]], axis=1) / scale for s in SIDES}
    for s in sides:
        other = gap["R" if s == "L" else "L"]
        ours = right if s == "R" else 1 - right
        # Hands that touch: the net that sees which hand it is decides between the two wrists.
        cost = gap[s] + WRIST_REACH * (1 - ours)
        near = (gap[s] < WRIST_REACH) & (cost <= other + WRIST_REACH * ours)
        score = np.where((flag > HAND_LEAST) & near, flag - 2 * cost, -np.inf)
        best = int(np.argmax(score))
        if np.isfinite(score[best]):
            hands[s], presence[s] = points[best], float(flag[best])
    return hands, presence
