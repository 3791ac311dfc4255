"""A body-like splat scene for timing: splats on the surface of six ellipsoids, a person 60 % of the image high.

Anisotropic surface splats, tangential sigma about 2.5 px at 256 px, thin along the normal, opacity about 0.9, in random order
(the hardest for the caches). Shape letters: N splats, H = W image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# centre, semi-axes (metres), tilt about z (degrees): torso, head, arms, legs
PARTS = (
    ((0.0, 0.15, 0.0), (0.468, 0.45, 0.20), 0),
    ((0.0, 0.76, 0.0), (0.195, 0.19, 0.17), 0),
    ((-0.598, 0.12, 0.0), (0.156, 0.46, 0.12), -22),
    ((0.598, 0.12, 0.0), (0.156, 0.46, 0.12), 22),
    ((-0.26, -0.52, 0.0), (0.221, 0.48, 0.17), -6),
    ((0.26, -0.52, 0.0), (0.221, 0.48, 0.17), 6),
)
DISTANCE, HEIGHT_M, FILL = 4.0, 1.95, 0.60


def _surface(axes: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Uniform points and normals on an ellipsoid, by rejection."""
    points = np.zeros((0, 3))
    while len(points) < count:
        u = rng.normal(size=(2 * count + 16, 3))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        kept = rng.random(len(u)) < np.linalg.norm(u / axes, axis=1) * axes.min()
        points = np.concatenate([points, u[kept] * axes])
    points = points[:count]
    normals = points / axes**2
    return points, normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _quats_to(normals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotations (wxyz) that take z to the normals, after a random turn about z."""
    half = np.concatenate(
        [1 + normals[:, 2:], -normals[:, 1:2], normals[:, :1], np.zeros((len(normals), 1))], 1
    )
    half[np.linalg.norm(half, axis=1) < 1e-6] = (0, 1, 0, 0)
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    turn = rng.random(len(normals)) * np.pi
    w, x, y, z = half.T
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([w * c - z * s, x * c + y * s, y * c - x * s, z * c + w * s], 1)


def body_scene(count: int, size: int, seed: int = 0) -> dict[str, Tensor]:
    """means quats scales opacities colors (N, ...), viewmats (4, 4), Ks (3, 3), background (3,), float32."""
    rng = np.random.default_rng(seed)
    areas = []
    for _, (a, b, c), _ in PARTS:
        p = 1.6075  # Thomsen's formula
        areas.append((((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p))
    counts = np.floor(count * np.array(areas) / sum(areas)).astype(int)
    counts[0] += count - counts.sum()
    all_points, all_normals = [], []
    for (centre, axes, tilt), n in zip(PARTS, counts):
        points, normals = _surface(np.array(axes), n, rng)
        t = np.deg2rad(tilt)
        turn = np.array([[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]])
        all_points.append(points @ turn.T + np.array(centre))
        all_normals.append(normals @ turn.T)
    order = rng.permutation(count)
    points, normals = np.concatenate(all_points)[order], np.concatenate(all_normals)[order]
    focal = FILL * size / HEIGHT_M * DISTANCE
    scales = 2.5 * DISTANCE / (FILL * 256 / HEIGHT_M * DISTANCE) * np.exp(rng.normal(0, 0.25, (count, 3)))
    scales[:, 2] *= 0.25
    yaw = np.deg2rad(20)
    view = np.diag([1.0, -1.0, -1.0, 1.0])
    view[2, 3] = DISTANCE
    turn = np.eye(4)
    turn[0, 0] = turn[2, 2] = np.cos(yaw)
    turn[0, 2], turn[2, 0] = np.sin(yaw), -np.sin(yaw)
    arrays = {
        "means": points,
        "quats": _quats_to(normals, rng) * rng.uniform(0.8, 1.2, (count, 1)),
        "scales": scales,
        "opacities": np.clip(0.9 + rng.normal(0, 0.04, count), 0.3, 0.99),
        "colors": np.clip(
            0.5 + 0.35 * np.sin(points * 7 + np.arange(3)) + rng.normal(0, 0.08, (count, 3)), 0, 1
        ),
        "viewmats": view @ turn,
        "Ks": np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]),
        "background": np.array([0.1, 0.2, 0.3]),
    }
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
