"""A table under the hands is none of the person: the network often takes what lies between a body and the picture's border for it.

The person's face, limbs and hands, drawn as lines and areas, and the room grow over the mask until they meet, where the picture
has an edge. What the room takes is a table where it lies below a hand, goes on beyond the mask and has the room's colours more than
the person's.

Legend: H W pixels, K keypoints of `template.landmarks.KEYPOINTS`.
Source: Meyer, "Color Image Segmentation" (1992), watersheds from markers, as OpenCV has them.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

from avatar_core.perception.matte_others import OWN, ROOM, hands_of, mark_person

LEAST = 0.01  # share of the person's pixels: less is a gap between fingers, or noise
LIKE_ROOM = 0.5  # share of its pixels nearer to the room's colours than to the person's
GOES_ON, SAME, NEAR_PX = (
    0.4,
    6.0,
    5,
)  # share of its rim where it goes on: no step of colour (CIELAB) between means so far apart
NOT_PERSON, PERSON = 0.1, 0.5  # probabilities
SAMPLES = 4000


def without_table(
    probability: np.ndarray, picture: np.ndarray, xy: np.ndarray, confidence: np.ndarray, head: np.ndarray
) -> np.ndarray:
    """probability (H,W) of the person with keypoints xy (K,2) px, confidence (K,), face in head (4,) -> without tables.

    picture: (H,W,3) uint8. Where no hand is seen nothing is changed: clothes below a trunk are not to be told from tables.
    Locked by test_a_table_under_the_hands_is_not_the_person.
    """
    hands = hands_of(xy, confidence)
    if not hands:
        return probability
    top = max(0, int(min(hand[:, 1].min() for hand in hands)))
    markers = np.zeros(probability.shape, np.int32)
    markers[probability < NOT_PERSON] = ROOM
    # behind a table hips and legs are guesses
    mark_person(markers, xy, confidence, head, top)
    cv2.watershed(np.ascontiguousarray(cv2.GaussianBlur(picture, (0, 0), 1.5)), markers)
    person = probability > PERSON
    below = np.arange(len(probability))[:, None] >= top
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        ((markers == ROOM) & (probability >= NOT_PERSON) & below).astype(np.uint8), connectivity=4
    )
    colors = cv2.cvtColor(cv2.GaussianBlur(picture, (0, 0), 1.0).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    own = _some(colors[(markers == OWN) & person])
    out = probability
    for piece in range(1, count):
        if stats[piece, cv2.CC_STAT_AREA] < LEAST * person.sum():
            continue
        inside = labels == piece
        # a room has one light above a table and another on it: only what is as low as the piece
        level = np.arange(len(probability))[:, None] >= stats[piece, cv2.CC_STAT_TOP]
        room = _some(colors[(probability < NOT_PERSON) & level])
        if not len(room) or not len(own):
            continue
        some = _some(colors[inside])
        like_room = (cKDTree(room).query(some)[0] < cKDTree(own).query(some)[0]).mean()
        if like_room < LIKE_ROOM or goes_on(colors, inside, probability < NOT_PERSON) < GOES_ON:
            continue
        # the line that watersheds leave between two pieces goes with it
        rim = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        out = np.where(inside | (rim & (markers == -1)), 0, out).astype(np.float32)
    return out


def goes_on(colors: np.ndarray, inside: np.ndarray, room: np.ndarray) -> float:
    """Share of the rim between a piece and the room, both (H,W) bool, across which the colours (H,W,3), CIELAB, are the same."""
    window = (2 * NEAR_PX + 1,) * 2
    share = [cv2.blur(area.astype(np.float32), window) for area in (inside, room)]
    piece, wall = (
        cv2.blur(colors * area[..., None].astype(np.float32), window) / np.maximum(of, 1e-6)[..., None]
        for area, of in zip((inside, room), share, strict=True)
    )
    rim = room & (share[0] > 0.02)
    return float((np.linalg.norm(piece - wall, axis=-1)[rim] < SAME).mean()) if rim.any() else 0.0


def _some(colors: np.ndarray) -> np.ndarray:
    """At most SAMPLES of the colours (n,3), evenly."""
    return colors[:: 1 + len(colors) // SAMPLES]
