"""Lamps, the key light's shadow map and the display transfer curve."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

KEY = np.array([-0.45, -0.72, 0.62]) / math.sqrt(0.45**2 + 0.72**2 + 0.62**2)


SOFT = 0.12  # part of the key light that reaches into its shadow (stands for a larger lamp)


def lights() -> np.ndarray:
    """(4, 6): unit direction to the light, linear RGB."""
    table = np.array(
        [
            [*KEY, 1.22, 1.15, 1.06],
            [0.75, -0.55, 0.20, 0.26, 0.28, 0.32],
            [0.45, 0.75, 0.55, 0.70, 0.74, 0.82],
            [-0.8, 0.6, 0.3, 0.35, 0.35, 0.40],
        ],
        np.float32,
    )
    table[:, :3] /= np.linalg.norm(table[:, :3], axis=1, keepdims=True)
    return table


@njit(inline="always")
def srgb(a: float) -> float:
    a = min(max(a, 0.0), 1.0)
    return 12.92 * a if a < 0.0031308 else 1.055 * a ** (1 / 2.4) - 0.055


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def key_light(shadow: np.ndarray, to_shadow: np.ndarray, x: float, y: float, z: float, bias: float) -> float:
    """Fraction of the key light that arrives: 3 x 3 taps with a sliding box filter."""
    size = shadow.shape[0]
    sx = to_shadow[0, 0] * x + to_shadow[0, 1] * y + to_shadow[0, 2] * z + to_shadow[0, 3] - 0.5
    sy = to_shadow[1, 0] * x + to_shadow[1, 1] * y + to_shadow[1, 2] * z + to_shadow[1, 3] - 0.5
    sz = to_shadow[2, 0] * x + to_shadow[2, 1] * y + to_shadow[2, 2] * z + to_shadow[2, 3] + bias
    jx = math.floor(sx)
    jy = math.floor(sy)
    if jx < 1 or jy < 1 or jx >= size - 2 or jy >= size - 2:
        return 1.0
    fx = sx - jx
    fy = sy - jy
    total = 0.0
    for dy in range(3):
        wy = 1 - fy if dy == 0 else (1.0 if dy == 1 else fy)
        for dx in range(3):
            wx = 1 - fx if dx == 0 else (1.0 if dx == 1 else fx)
            gap = shadow[jy + dy, jx + dx] - sz
            if gap <= 0:
                total += wx * wy
            elif gap > 0.05:  # a lamp has a size: what is far from its shadow shades it less
                total += wx * wy * min(0.6, (gap - 0.05) * 4)
    return SOFT + (1 - SOFT) * total * 0.25
