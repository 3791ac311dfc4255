"""Plain studio backdrops: a quadratic polynomial of the image coordinates, so that a fit can model them exactly."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=32)
def _image(color: tuple[float, ...], width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = (x + 0.5) / width - 0.5, (y + 0.5) / height - 0.42
    shade = 1.02 - 0.34 * (u * u + v * v) - 0.03 * v  # lit a little above the middle, slight vignette
    image = np.clip(np.asarray(color, np.float32) / 255 * shade[..., None], 0, 1).astype(np.float32)
    image.setflags(write=False)
    return image


def backdrop_image(color: Iterable[float], width: int, height: int) -> np.ndarray:
    """(H, W, 3) float32 sRGB in [0, 1] for a colour given as an sRGB 0..255 triple. Read-only, cached."""
    return _image(tuple(float(c) for c in color), int(width), int(height))
