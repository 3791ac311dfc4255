"""A smooth backdrop: what stands behind an avatar, at any size of picture.

Legend: H height, W width, C polynomial terms.
"""

from __future__ import annotations

from dataclasses import dataclass

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
