"""The room without the person: what is behind is filled in from around.

Legend: H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from avatar_core.io.images import to_uint8

GROW = 0.012  # of the longer side: soft shadows and the outline's own colours go too
LEVELS = 7
THIN = 0.02  # of the head's side: half the width of what counts as a strand
DIFFERS, CALM = 0.03, 0.04  # of a strand from the wall; standard deviation of a wall's colours
BESIDE, ROUND_HEAD = (
    0.35,
    1.6,
)  # head sides from the hole, and from the middle of the head, within which hair hangs


def fill_room(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """image (H,W,3) in [0,1] with hole (H,W) bool, grown a little, filled smoothly from its surroundings."""
    side = max(2, round(GROW * max(hole.shape)))
    grown = cv2.dilate(
        hole.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * side + 1,) * 2)
    )
    if grown.all():
        return image.astype(np.float32)
    return _push_pull(image.astype(np.float32), 1.0 - grown.astype(np.float32), LEVELS)


def strands(image: np.ndarray, hole: np.ndarray, head: np.ndarray) -> np.ndarray:
    """(H,W) bool: thin things before a calm wall round the head (4,), beside hole (H,W) bool: hair that a matte misses, which would
    stay in the room, in the air, when the head moves. image: (H,W,3) in [0,1].

    Locked by test_a_strand_that_the_matte_misses_does_not_stay_in_the_room.
    """
    side = float(head[2] - head[0])
    width = max(2, round(THIN * side))
    wall = cv2.medianBlur(to_uint8(image), 4 * width + 1).astype(np.float32) / 255
    differs = np.abs(cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.7) - wall).max(-1) > DIFFERS
    around = (6 * width + 1,) * 2
    mean = cv2.blur(wall, around)
    calm = (cv2.blur(wall * wall, around) - mean * mean).max(-1) < CALM**2
    row, column = np.mgrid[: hole.shape[0], : hole.shape[1]]
    x, y = (head[:2] + head[2:]) / 2
    near = np.hypot(column - x, row - y) < ROUND_HEAD * side
    near &= cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, 5) < BESIDE * side
    return differs & calm & near & ~hole


def _push_pull(image: np.ndarray, weight: np.ndarray, levels: int) -> np.ndarray:
    """Known pixels stay, others come from ever coarser means. weight (H,W): 1 where known."""
    if levels == 0 or min(weight.shape) < 2:
        mean = (image * weight[..., None]).sum((0, 1)) / max(float(weight.sum()), 1e-6)
        return np.where(weight[..., None] > 0, image, mean).astype(np.float32)
    size = ((weight.shape[1] + 1) // 2, (weight.shape[0] + 1) // 2)
    share = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    colors = cv2.resize(image * weight[..., None], size, interpolation=cv2.INTER_AREA)
    colors = colors / np.maximum(share[..., None], 1e-6)
    coarse = _push_pull(colors, (share > 0).astype(np.float32), levels - 1)
    fill = cv2.resize(coarse, (weight.shape[1], weight.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.where(weight[..., None] > 0, image, fill)
