"""A person's mesh and hair as arrays to draw, at one level of detail.

Legend: n strands of S nodes, R ribbon vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar_core.procedural.people.hair import Hair, ribbon_triangles
from avatar_core.procedural.people.mesh import Mesh


@dataclass(frozen=True)
class Drawable:
    """Mesh plus hair at one level of detail: static arrays and per-frame buffers."""

    strands: np.ndarray  # (n, S, 3) rest nodes
    normals: np.ndarray  # (n * S, 3)
    weights_index: np.ndarray
    weights: np.ndarray
    loose: np.ndarray  # (n * S,) what follows late
    width: float
    triangles: np.ndarray
    shadow_triangles: np.ndarray  # with a third of the strands
    material: np.ndarray
    uv: np.ndarray
    ao: np.ndarray
    color: np.ndarray
    cut: np.ndarray
    template: np.ndarray  # hair rows are overwritten by strand tangents
    points: np.ndarray
    unit: np.ndarray
    screen: np.ndarray


def make_drawable(m: Mesh, h: Hair | None, loose_hair: np.ndarray, lod: int) -> Drawable:
    """Mesh and every lod-th strand (wider to make up for it); loose_hair (n, S), what follows late."""
    if h is None:
        points = np.zeros((0, 2, 3), np.float32)
        normals, index, weights = (
            np.zeros((0, 3), np.float32),
            np.zeros((0, 2), np.int64),
            np.zeros((0, 2), np.float32),
        )
        color, ao, width = np.zeros((0, 3), np.float32), np.zeros(0, np.float32), 0.0
        loose = np.zeros(0, np.float32)
    else:
        nodes = h.points.shape[1]
        rows = np.arange(0, len(h.points), lod)
        flat = (rows[:, None] * nodes + np.arange(nodes)).ravel()
        points = np.ascontiguousarray(h.points[rows])
        normals = np.ascontiguousarray(h.normals[rows].reshape(-1, 3))
        index, weights = h.weights_index[flat], h.weights[flat]
        loose = loose_hair.ravel()[flat]
        color = np.repeat(np.repeat(h.color[rows], nodes, 0), 2, 0)
        ao, width = np.repeat(h.occlusion[rows].ravel(), 2), h.width * lod**0.8
    strands, nodes = points.shape[:2]
    triangles = ribbon_triangles(strands, nodes) + len(m.points)
    casting = triangles[: len(triangles) // 3]
    r, total = len(ao), len(m.points) + len(ao)
    f32 = np.float32
    return Drawable(
        strands=points,
        normals=normals,
        weights_index=index,
        weights=weights,
        loose=loose,
        width=width,
        triangles=np.concatenate([m.triangles, triangles]).astype(np.int32),
        shadow_triangles=np.concatenate([m.triangles, casting]).astype(np.int32),
        material=np.concatenate([m.material, np.full(len(triangles), len(m.table) - 1, np.int32)]),
        uv=np.concatenate([m.uv, np.zeros((r, 2), f32)]),
        ao=np.concatenate([m.ao, ao]),
        color=np.concatenate([m.color, color]),
        cut=np.concatenate([m.cut, np.full(r, -1, f32)]),
        template=np.concatenate([m.template, np.zeros((r, 3), f32)]),
        points=np.zeros((total, 3), f32),
        unit=np.zeros((total, 3), f32),
        screen=np.zeros((total, 3), f32),
    )
