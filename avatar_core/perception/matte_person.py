"""The outline of the person in a photograph: soft alpha, with hair.

A small segmentation network looks at the whole picture, at the person and at the head; what it leaves open is decided by
closed-form matting along the picture's own colours. Only what hangs together with the face is kept.

Legend: H W pixels, K keypoints of `template.landmarks.KEYPOINTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from avatar_core.io.images import to_uint8
from avatar_core.perception.holistic.people import Person
from avatar_core.perception.matte_alpha import linear_upsample, solve_alpha
from avatar_core.perception.matte_others import others_of, without_others
from avatar_core.perception.matte_table import without_table
from avatar_core.template.landmarks import indices

SOLVE_PX = 340  # longer side of the person where alpha is solved
NET_PX = 256
LOOSE = 2.5  # pixels of the network that its outline may be off
HAIR = 0.10  # of the head's height: how far round the head the outline is looked for
OWN = 0.5
DOUBT = (0.35, 0.85)  # the network's probabilities between which alpha is open
SURE, HOLE = 0.9, 0.004  # share of the person that a hole in it may have
SEEN = 0.5
TRUST = 0.01  # weight of the network in the band, against the picture's colours

Network = Callable[[np.ndarray], np.ndarray]


def person_alpha(
    image: np.ndarray, xy: np.ndarray, confidence: np.ndarray, network: Network, people: Sequence[Person]
) -> np.ndarray:
    """Picture (H,W,3) float32 in [0,1], keypoints (K,2) px, confidence (K,) -> alpha (H,W) of the person they lie on.

    people: everybody in the picture, that person among them or not.
    """
    head = head_box(xy)
    probability = sharper(person_probability(image, head, network))
    others = others_of(people, head)
    probability = without_others(probability, to_uint8(image), xy, confidence, head, others)
    probability = own_part(probability, xy, confidence)
    probability = without_holes(without_table(probability, to_uint8(image), xy, confidence, head))
    height, width = probability.shape
    rows, columns = np.nonzero(probability > 0.5)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1 if len(rows) else max(height, width)
    scale = min(1.0, SOLVE_PX / extent)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    guess = cv2.resize(probability, size, interpolation=cv2.INTER_AREA)
    net_px = extent * scale / NET_PX
    unknown = open_band(guess, head * scale, 1 + LOOSE * net_px)
    known = np.where(unknown, guess, guess > 0.5)
    alpha = solve_alpha(small, known, unknown, TRUST)
    alpha = linear_upsample(small, alpha, image) if scale < 1 else alpha
    return alpha


def head_box(xy: np.ndarray) -> np.ndarray:
    """x0 y0 x1 y1 (4,) of the face from the brows to the chin, as a square."""
    points = xy[indices("brows.", "eyelids.", "lips_", "jaw.")]
    middle, side = (points.min(0) + points.max(0)) / 2, np.ptp(points, axis=0).max()
    return np.concatenate([middle - side / 2, middle + side / 2])


def person_probability(image: np.ndarray, head: np.ndarray, network: Network) -> np.ndarray:
    """(H,W) float32: mean of what the network says of the whole picture, of the person's square and of the head's."""
    height, width = image.shape[:2]
    picture = to_uint8(image)
    whole = np.clip(network(picture), 1e-3, 1 - 1e-3)
    total, weight = np.log(whole / (1 - whole)), np.ones((height, width), np.float32)
    side = head[2] - head[0]
    centre = (head[:2] + head[2:]) / 2
    person = _largest_box(whole > 0.5, centre)
    boxes = [np.concatenate([centre - [1.5 * side, 1.5 * side], centre + [1.5 * side, 1.5 * side]])]
    if person is not None:
        margin = 0.12 * max(person[2] - person[0], person[3] - person[1])
        boxes.append(person + margin * np.array([-1, -1, 1, 1]))
    for box in boxes:
        x0, y0 = np.floor(box[:2]).astype(int).clip(0)
        x1, y1 = np.minimum(np.ceil(box[2:]).astype(int), [width, height])
        if (x1 - x0) * (y1 - y0) > 0.9 * width * height or min(x1 - x0, y1 - y0) < 16:
            continue
        part = np.clip(network(np.ascontiguousarray(picture[y0:y1, x0:x1])), 1e-3, 1 - 1e-3)
        # A crop knows little about its own border, unless that is the picture's.
        fade = _fade(y1 - y0, x1 - x0, (y0 > 0, y1 < height, x0 > 0, x1 < width))
        total[y0:y1, x0:x1] += 2 * fade * np.log(part / (1 - part))
        weight[y0:y1, x0:x1] += 2 * fade
    return 1 / (1 + np.exp(-total / weight))


def _fade(height: int, width: int, inner: tuple[bool, bool, bool, bool]) -> np.ndarray:
    """(h,w) weights, 0 at those borders (top, bottom, left, right) that are inside the picture, 1 from 15 % on."""

    def ramp(n: int, first: bool, last: bool) -> np.ndarray:
        place = (np.arange(n) + 0.5) / n / 0.15
        out = np.ones(n)
        out = np.minimum(out, place) if first else out
        return np.minimum(out, place[::-1]) if last else out

    return (ramp(height, *inner[:2])[:, None] * ramp(width, *inner[2:])[None]).astype(np.float32)


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected pieces of mask (H,W) bool: their numbers (H,W), 0 outside, and OpenCV's statistics of each."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return np.asarray(labels, np.int64), np.asarray(stats, np.int64)


def _largest_box(mask: np.ndarray, centre: np.ndarray) -> np.ndarray | None:
    """x0 y0 x1 y1 of the piece of mask (H,W) that holds the point, or None."""
    labels, stats = _pieces(mask)
    x, y = np.clip(centre.astype(int), 0, [mask.shape[1] - 1, mask.shape[0] - 1])
    if labels[y, x] == 0:
        return None
    left, top, width, height, _ = stats[labels[y, x]]
    return np.array([left, top, left + width, top + height], float)


def own_part(probability: np.ndarray, xy: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """probability (H,W) where it belongs to the piece that the face lies on, 0 elsewhere."""
    labels, _ = _pieces(probability > 0.5)
    limit = [probability.shape[1] - 1, probability.shape[0] - 1]
    column, row = np.clip(xy[confidence > SEEN].astype(int), 0, limit).T
    held = labels[row, column]
    held = held[held > 0]
    if not len(held):
        return np.zeros_like(probability)
    names, counts = np.unique(held, return_counts=True)
    own = np.isin(labels, names[counts >= max(2, 0.05 * len(held))])
    other = (labels > 0) & ~own
    # Soft pixels go to the nearer of own and others' pieces.
    to_own = cv2.distanceTransform((~own).astype(np.uint8), cv2.DIST_L2, 3)
    to_other = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, 3) if other.any() else np.inf
    reach = 0.1 * max(probability.shape)
    return np.where((to_own <= to_other) & (to_own < reach), probability, 0).astype(np.float32)


def sharper(probability: np.ndarray) -> np.ndarray:
    """What the network leaves undecided over an area is furniture more often than not: its doubt is made narrow."""
    return np.clip((probability - DOUBT[0]) / (DOUBT[1] - DOUBT[0]), 0, 1).astype(np.float32)


def without_holes(probability: np.ndarray) -> np.ndarray:
    """probability (H,W) with small holes in the person filled: badges and shining things, where the network hesitates."""
    solid = probability > SURE
    labels, stats = _pieces(~solid)
    count = len(stats)
    most = HOLE * float(solid.sum())
    darkest = np.ones(count, np.float32)
    np.minimum.at(darkest, labels.ravel(), probability.ravel())
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    hole = (stats[:, cv2.CC_STAT_AREA] < np.where(darkest > 0.02, 4 * most, most)) & (np.arange(count) > 0)
    hole[border] = False
    return np.where(hole[labels], 1, probability).astype(np.float32)


def open_band(guess: np.ndarray, head: np.ndarray, loose: float) -> np.ndarray:
    """(H,W) bool: pixels to decide: round the outline of guess (H,W), and further round the head (4,)."""
    solid = (guess > 0.5).astype(np.uint8)
    inside = cv2.distanceTransform(solid, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - solid, cv2.DIST_L2, 5)
    distance = np.maximum(inside, outside)
    height, width = guess.shape
    side = head[2] - head[0]
    middle = (head[:2] + head[2:]) / 2
    row, column = np.mgrid[:height, :width]
    far = np.hypot((column - middle[0]) / (1.6 * side), (row - middle[1]) / (1.6 * side))
    near_head = np.clip((1.15 - far) / 0.3, 0, 1)
    reach = loose + near_head * np.maximum(HAIR * side - loose, 0)
    # The face itself is the person's.
    face = np.hypot((column - middle[0]) / (0.5 * side), (row - middle[1]) / (0.5 * side)) < 1
    return ((distance < reach) | ((guess > 0.05) & (guess < 0.95))) & ~face
