"""Cloth drawn in template space: printed patterns, folds, hems, closures and shoe soles (numba, called per sample).

Patterns: 1 stripes, 2 checks, 3 blobs, 4 placket, 5 denim, 6 vertical stripes, 7 dots, 8 ribs, 9 chest band.
Closures: 0 none, 1 buttons, 2 zip.
"""

from __future__ import annotations

import math

from numba import njit

from avatar_core.people.noise import noise3


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def pattern(kind, scale, x, y, z):
    """Blend factor in [0, 1] of the second cloth colour at a template-space point."""
    if kind == 1:
        return 1.0 if math.sin(z * scale) > 0.25 else 0.0
    if kind == 2:
        return (0.5 if math.sin(x * scale) > 0.2 else 0.0) + (0.5 if math.sin(z * scale) > 0.2 else 0.0)
    if kind == 3:
        return 1.0 if noise3(x * scale, y * scale, z * scale) > 0.28 else 0.0
    if kind == 4:
        return 1.0 if abs(x) < 0.008 else 0.0
    if kind == 5:
        return 0.5 + 0.5 * noise3(x * 700, y * 350, z * 60)
    if kind == 6:
        return 1.0 if math.sin(x * scale) > 0.25 else 0.0
    if kind == 7:
        row = math.floor(z * scale)
        u = x * scale + 0.5 * (row - 2 * math.floor(row / 2))
        u = u - math.floor(u) - 0.5
        v = z * scale - row - 0.5
        return 1.0 if u * u + v * v < 0.07 else 0.0
    if kind == 8:
        return 0.5 + 0.5 * math.sin(x * scale)
    if kind == 9:
        return 1.0 if abs(z - scale) < 0.045 else 0.0
    return 0.0


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def folds(x, y, z, f):
    return noise3(x * f, y * f, z * f * 0.55) + 0.5 * noise3(x * f * 2.3 + 7, y * f * 2.3, z * f * 1.4)


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def closure_shade(kind, low, x, y, z, front):
    """Brightness factor and gloss of a placket with buttons (or a zip) down the front, above template height `low`."""
    if kind == 0 or y > front or z < low:
        return 1.0, 0.0
    if kind == 2:
        return (0.55, 0.6) if abs(x) < 0.0022 else ((0.8, 0.0) if abs(x) < 0.006 else (1.0, 0.0))
    shade = 1.0
    edge = abs(x - 0.014)
    if edge < 0.0022:
        shade = 0.62 + 0.38 * edge / 0.0022
    elif -0.016 < x < -0.0135:
        shade = 0.86
    row = z / 0.072
    dz = (row - math.floor(row) - 0.5) * 0.072
    r2 = x * x + dz * dz
    if r2 < 0.0050 * 0.0050:
        return (0.45, 0.5) if r2 > 0.0038 * 0.0038 else (1.25, 0.8)
    return shade, 0.0


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def hem_shade(cut):
    """Brightness factor near a trimmed edge: a folded rim with a stitch line behind it. cut: about metres to the edge."""
    if cut > -0.0025:
        return 0.80
    if -0.0135 < cut < -0.0115:
        return 0.82
    return 1.0
