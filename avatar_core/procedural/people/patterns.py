"""Cloth drawn in template space: printed patterns, folds, hems, closures and shoe soles (numba, called per sample).

Patterns: 1 stripes, 2 checks, 3 blobs, 4 placket, 5 denim, 6 vertical stripes, 7 dots, 8 ribs, 9 chest band.
Closures: 0 none, 1 buttons, 2 zip. `pixel` is the footprint of a pixel in metres: edges are filtered to it.
"""

from __future__ import annotations

import math

from numba import njit

from avatar_core.procedural.people.noise import noise3


@njit(inline="always")
def _soft(x: float, width: float) -> float:
    return min(1.0, max(0.0, 0.5 + x / width))


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def pattern(kind: int, scale: float, x: float, y: float, z: float, pixel: float) -> float:
    """Blend factor in [0, 1] of the second cloth colour at a template-space point; edges are `pixel` metres soft."""
    ramp = scale * pixel + 1e-6
    if kind == 1:
        return _soft(math.sin(z * scale) - 0.25, ramp)
    if kind == 2:
        return 0.5 * _soft(math.sin(x * scale) - 0.2, ramp) + 0.5 * _soft(math.sin(z * scale) - 0.2, ramp)
    if kind == 3:
        return _soft(noise3(x * scale, y * scale, z * scale) - 0.28, 1.6 * ramp)
    if kind == 4:
        return _soft(0.008 - abs(x), pixel)
    if kind == 5:
        return 0.5 + 0.5 * noise3(x * 700, y * 350, z * 60) * min(1.0, 0.002 / pixel)
    if kind == 6:
        return _soft(math.sin(x * scale) - 0.25, ramp)
    if kind == 7:
        row = math.floor(z * scale)
        u = x * scale + 0.5 * (row - 2 * math.floor(row / 2))
        u = u - math.floor(u) - 0.5
        v = z * scale - row - 0.5
        return _soft(0.265 - math.sqrt(u * u + v * v), ramp)
    if kind == 8:
        return 0.5 + 0.5 * math.sin(x * scale) * min(1.0, 0.0016 / pixel)
    if kind == 9:
        return _soft(0.045 - abs(z - scale), pixel)
    return 0.0


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def folds(x: float, y: float, z: float, f: float) -> float:
    return noise3(x * f, y * f, z * f * 0.55) + 0.5 * noise3(x * f * 2.3 + 7, y * f * 2.3, z * f * 1.4)


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def closure_shade(
    kind: int, low: float, x: float, y: float, z: float, front: float, pixel: float
) -> tuple[float, float]:
    """Brightness factor and gloss of a placket with buttons (or a zip) down the front, above template height `low`."""
    if kind == 0 or y > front or z < low:
        return 1.0, 0.0
    half = 0.0018
    wide = max(half, 0.7 * pixel)  # lines thinner than a pixel get wider and fainter
    if kind == 2:
        return 1 - 0.45 * _soft(half - abs(x), pixel), 0.4 * _soft(half - abs(x), pixel)
    shade = 1 - 0.38 * max(0.0, 1 - abs(x - 0.014) / wide) * half / wide
    shade -= 0.20 * max(0.0, 1 - abs(x + 0.0148) / wide) * half / wide
    row = z / 0.072
    dz = (row - math.floor(row) - 0.5) * 0.072
    r = math.sqrt(x * x + dz * dz)
    rim = _soft(0.0050 - r, pixel)
    face = _soft(0.0038 - r, pixel)
    return shade * (1 - 0.5 * rim) * (1 + 1.3 * face), 0.6 * face


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def hem_shade(cut: float, pixel: float) -> float:
    """Brightness factor near a trimmed edge: a folded rim with a stitch line behind it. cut: about metres to the edge."""
    if cut < -0.03:
        return 1.0
    wide = max(0.001, 0.7 * pixel)
    stitch = max(0.0, 1 - abs(cut + 0.0125) / wide) * 0.001 / wide
    return (1 - 0.20 * _soft(cut + 0.0025, pixel)) * (1 - 0.25 * stitch)
