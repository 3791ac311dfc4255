"""What stands behind an avatar, at any size of picture: a smooth backdrop or the room of a photograph.

Legend: H height, W width, C polynomial terms, h w pixels of a stored room.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


def polynomial_terms(height: int, width: int, degree: int) -> np.ndarray:
    """(H, W, C) monomials of the pixel position in [-1, 1], of total degree up to `degree`."""
    y = ((np.arange(height) + 0.5) / height * 2 - 1)[:, None]
    x = ((np.arange(width) + 0.5) / width * 2 - 1)[None]
    return np.stack([x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)], -1)


@dataclass(frozen=True)
class Background:
    """A smooth backdrop: coefficients (C, 3) of a polynomial in the position over the picture, each in [-1, 1]."""

    coefficients: np.ndarray

    @property
    def degree(self) -> int:
        return round((np.sqrt(8 * len(self.coefficients) + 1) - 3) / 2)

    def image(self, width: int, height: int) -> np.ndarray:
        """(H, W, 3) float32 in [0, 1] at any size."""
        terms = polynomial_terms(height, width, self.degree)
        return np.clip(terms @ self.coefficients, 0, 1).astype(np.float32)

    @staticmethod
    def plain(color: np.ndarray) -> Background:
        """One colour (3,) everywhere."""
        return Background(np.asarray(color, np.float32).reshape(1, 3))


@dataclass(frozen=True)
class Room:
    """A picture behind the avatar: pixels (h,w,3) uint8."""

    pixels: np.ndarray

    def image(self, width: int, height: int) -> np.ndarray:
        """(H, W, 3) float32 in [0, 1]: the room fills the picture, its middle where the shapes differ."""
        h, w = self.pixels.shape[:2]
        scale = max(width / w, height / h)
        cut_w, cut_h = max(1, min(w, round(width / scale))), max(1, min(h, round(height / scale)))
        x0, y0 = (w - cut_w) // 2, (h - cut_h) // 2
        cut = self.pixels[y0 : y0 + cut_h, x0 : x0 + cut_w].astype(np.float32) / 255
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        return np.clip(cv2.resize(cut, (width, height), interpolation=method), 0, 1)


Backdrop = Background | Room
