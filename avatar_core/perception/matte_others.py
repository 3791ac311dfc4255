"""Several people in one mask: which of its pixels are whose.

Each person's face and limbs, drawn as lines, grow over the mask until they meet; they meet where the picture has an edge.

Legend: H W pixels, K keypoints of `template.landmarks.KEYPOINTS`.
Source: Meyer, "Color Image Segmentation" (1992), watersheds from markers, as OpenCV has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from avatar_core.perception.holistic.people import Person
from avatar_core.template.landmarks import HAND_JOINTS, KEYPOINT_INDEX

VISIBLE = 0.5
ROOM, OWN, OTHERS = 1, 2, 3
SAME = 0.6  # of the face's side: how far apart two centres of one face may be
LINE = 0.12  # width of a limb's line, in face sides
LIMBS = (
    (11, 12),
    (11, 13),
    (13, 15),
    (12, 14),
    (14, 16),
    (11, 23),
    (12, 24),
    (23, 24),
    (23, 25),
    (24, 26),
    (25, 27),
    (26, 28),
)
HIPS = 23  # from here on
NAMES = {11: "shoulder", 13: "elbow", 15: "wrist", 23: "hip", 25: "knee", 27: "ankle"}


def others_of(people: Sequence[Person], head: np.ndarray) -> list[Person]:
    """Those whose face is not the one in `head` (x0 y0 x1 y1)."""
    side = head[2] - head[0]
    away = lambda p: np.linalg.norm((p.box[:2] + p.box[2:] - head[:2] - head[2:]) / 2) > SAME * side  # noqa: E731
    return [p for p in people if away(p)]


def without_others(
    probability: np.ndarray,
    picture: np.ndarray,
    xy: np.ndarray,
    confidence: np.ndarray,
    head: np.ndarray,
    others: Sequence[Person],
) -> np.ndarray:
    """probability (H,W) of any person, picture (H,W,3) uint8 -> that of the one with keypoints xy (K,2) px, confidence (K,)."""
    if not others:
        return probability
    markers = np.zeros(probability.shape, np.int32)
    markers[probability < 0.1] = ROOM
    for person in others:
        seen = person.pose_visibility > VISIBLE
        _draw(markers, person.pose, seen, person.box, OTHERS)
        for hand in person.hands.values():
            _fill(markers, hand[:, :2], OTHERS)
    mark_person(markers, xy, confidence, head)
    cv2.watershed(np.ascontiguousarray(cv2.GaussianBlur(picture, (0, 0), 1.5)), markers)
    other = cv2.dilate((markers == OTHERS).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.where(other & (markers != OWN), 0, probability).astype(np.float32)


def mark_person(
    markers: np.ndarray, xy: np.ndarray, confidence: np.ndarray, head: np.ndarray, top: int = 0
) -> None:
    """OWN where keypoints xy (K,2), confidence (K,) say that the person surely is, into markers (H,W): face, limbs, hands; of
    trunk and legs only what is above the row `top`, where that is given."""
    own = np.zeros((33, 2))
    seen = np.zeros(33, bool)
    for k, name in NAMES.items():
        for index, side in ((k, "L"), (k + 1, "R")):
            row = KEYPOINT_INDEX[f"{name}.{side}"]
            own[index], seen[index] = xy[row], confidence[row] > VISIBLE
    if top:
        _draw(markers[:top], own, seen, head, OWN)
        seen[HIPS:] = False
    _draw(markers, own, seen, head, OWN)
    for hand in hands_of(xy, confidence):
        _fill(markers, hand, OWN)


def hands_of(xy: np.ndarray, confidence: np.ndarray) -> list[np.ndarray]:
    """Points (21,2) of each hand that is seen."""
    rows = [[KEYPOINT_INDEX[name] for name in HAND_JOINTS[side]] for side in "LR"]
    return [xy[hand] for hand in rows if confidence[hand].min() > VISIBLE]


def _fill(markers: np.ndarray, points: np.ndarray, value: int) -> None:
    """The hull of points (n,2) into markers (H,W)."""
    cv2.fillConvexPoly(markers, cv2.convexHull(np.round(points).astype(np.int32)), value)


def _draw(markers: np.ndarray, points: np.ndarray, seen: np.ndarray, box: np.ndarray, value: int) -> None:
    """Face and limbs of one person, points (33,2) in MediaPipe's order, into markers (H,W)."""
    side = float(max(box[2] - box[0], box[3] - box[1]))
    width = max(1, round(LINE * side))
    at = lambda p: (int(round(p[0])), int(round(p[1])))  # noqa: E731
    for a, b in LIMBS:
        if seen[a] and seen[b]:
            cv2.line(markers, at(points[a]), at(points[b]), value, width)
    centre = (box[:2] + box[2:]) / 2
    cv2.circle(markers, at(centre), max(1, round(0.4 * side)), value, -1)
    if seen[11] and seen[12]:
        cv2.line(markers, at(centre), at((points[11] + points[12]) / 2), value, width)
