"""The person goes on beyond the picture's border: a strip outside repeats what the border shows.

A body that is cut by the border would end there in the avatar too, and the cut would come into view with every move.

Legend: H W pixels of the portrait, h w of the portrait with its strips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from avatar_core.geometry.camera import Camera
from avatar_core.perception.foreground import Matte

STRIP = 0.06  # width, of the longer side
SOFT = 0.08  # blur of what is repeated, in widths of the strip
TOUCH = 0.02  # share of a border that the person must cover


@dataclass(frozen=True)
class Continued:
    """matte of (h,w) pixels, what is behind (h,w,3), the camera that sees them, and x, y of the portrait's corner in them."""

    matte: Matte
    behind: np.ndarray
    camera: Camera
    corner: np.ndarray


def continued(matte: Matte, camera: Camera) -> Continued:
    """matte of a portrait (H,W) and its camera, with a strip on each side where the person reaches the border."""
    core = matte.core
    width = round(STRIP * max(core.shape))
    edges = (core[0], core[-1], core[:, 0], core[:, -1])
    top, bottom, left, right = (width if edge.mean() > TOUCH else 0 for edge in edges)

    height, wide = core.shape

    def grown(a: np.ndarray) -> np.ndarray:
        around = ((top, bottom), (left, right)) + ((0, 0),) * (a.ndim - 2)
        return np.pad(a, around, mode="edge")

    def faded(a: np.ndarray) -> np.ndarray:
        """Colours, without the streaks that repeated pixels make."""
        out = grown(a)
        soft = cv2.GaussianBlur(out, (0, 0), SOFT * width)
        soft[top : top + height, left : left + wide] = a
        return soft

    arrays = {n: grown(getattr(matte, n)) for n in ("alpha", "core", "pure")}
    arrays |= {n: faded(getattr(matte, n)) for n in ("colors", "picture")}
    return Continued(
        replace(matte, **arrays),
        grown(matte.background.image(wide, height)),
        camera.crop(-left, -top, wide + left + right, height + top + bottom),
        np.array([left, top]),
    )
