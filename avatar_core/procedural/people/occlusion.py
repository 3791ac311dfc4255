"""Ambient occlusion by averaging depth maps from many directions (the rasteriser itself, no ray tracer).

For each of N directions the mesh is drawn orthographically; a vertex is occluded from there when something nearer to the
light lies within `reach` of it. Two passes: the whole body, and the head at a finer scale.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from avatar_core.procedural.people.raster import rasterize_triangles


def _directions(n: int) -> np.ndarray:
    """n unit vectors spread over the sphere (Fibonacci lattice)."""
    k = np.arange(n) + 0.5
    z = 1 - 2 * k / n
    angle = k * math.pi * (3 - math.sqrt(5))
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], 1)


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def _accumulate(
    screen: np.ndarray,
    normals: np.ndarray,
    direction: np.ndarray,
    depth: np.ndarray,
    bias: float,
    full: float,
    reach: float,
    chosen: np.ndarray,
    total: np.ndarray,
    blocked: np.ndarray,
) -> None:
    size = depth.shape[0]
    for i in range(screen.shape[0]):
        if not chosen[i]:
            continue
        facing = normals[i, 0] * direction[0] + normals[i, 1] * direction[1] + normals[i, 2] * direction[2]
        if facing <= 0.02:
            continue
        x = int(screen[i, 0])
        y = int(screen[i, 1])
        total[i] += facing
        if x < 0 or y < 0 or x >= size or y >= size:
            continue
        gap = depth[y, x] - screen[i, 2]
        if gap > bias and gap < reach:
            blocked[i] += facing * min(1.0, max(0.0, (reach - gap) / (reach - full)))


def ambient_occlusion(
    points: np.ndarray,
    normals: np.ndarray,
    triangles: np.ndarray,
    cut: np.ndarray,
    *,
    centre: np.ndarray,
    radius: float,
    chosen: np.ndarray,
    directions: int = 32,
    size: int = 320,
    full: float = 0.06,
    reach: float = 0.35,
) -> np.ndarray:
    """Openness in [0, 1] of the chosen vertices (V,) bool; 1 elsewhere.

    centre (3,), radius: the region that the depth maps cover. full: occluders this near block all the light of their
    direction; the effect fades out at `reach` (metres).
    """
    total, blocked = np.zeros(len(points)), np.zeros(len(points))
    scale = size / 2 / radius
    bias = 2.5 / scale
    lifted = points + normals * np.float32(1.0 / scale)
    for direction in _directions(directions):
        helper = np.array([0.0, 0.0, 1.0]) if abs(direction[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
        across = np.cross(helper, direction)
        across /= np.linalg.norm(across)
        along = np.cross(direction, across)
        basis = np.stack([across * scale, along * scale, direction]).astype(np.float32)
        offset = np.array([size / 2, size / 2, 100.0]) - basis @ centre

        def to_map(p: np.ndarray, basis: np.ndarray = basis, offset: np.ndarray = offset) -> np.ndarray:
            out = np.empty((len(p), 3), np.float32)
            for row in range(3):
                out[:, row] = (
                    p[:, 0] * basis[row, 0] + p[:, 1] * basis[row, 1] + p[:, 2] * basis[row, 2] + offset[row]
                )
            return out

        depth, owner = np.zeros((size, size), np.float32), np.full((size, size), -1, np.int32)
        rasterize_triangles(to_map(points), triangles, cut, depth, owner, len(triangles))
        _accumulate(to_map(lifted), normals, direction, depth, bias, full, reach, chosen, total, blocked)
    return np.where(total > 0, 1 - blocked / np.maximum(total, 1e-9), 1.0).astype(np.float32)
