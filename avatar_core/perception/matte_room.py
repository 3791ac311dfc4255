"""The room without the person: what is behind is filled in from around.

Legend: H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

GROW = 0.012  # of the longer side: soft shadows and the outline's own colours go too
LEVELS = 7


def fill_room(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """image (H,W,3) in [0,1] with hole (H,W) bool, grown a little, filled smoothly from its surroundings."""
    side = max(2, round(GROW * max(hole.shape)))
    grown = cv2.dilate(
        hole.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * side + 1,) * 2)
    )
    if grown.all():
        return image.astype(np.float32)
    return _push_pull(image.astype(np.float32), 1.0 - grown.astype(np.float32), LEVELS)


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
