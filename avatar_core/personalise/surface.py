"""From the naked template to the silhouette: clothes and hair push the surface out until it fills the mask.

Where the template's outline lies inside (or outside) the person's mask, its vertices are moved along their normals to the
mask's border; the displacement then spreads smoothly, through neighbours on the template, over body and scalp. What still
sticks out of the surface (long hair, skirts, open jackets) is left to shell particles.

Legend: V template vertices, F triangles, H W pixels of the mask.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

from avatar_core.geometry.camera import Camera
from avatar_core.template.mesh import Template

INSIDE_M, OUTSIDE_M, STEP_M = 0.02, 0.07, 0.0015  # how far borders are looked for, along the projected normal
INSET_M = 0.002  # particles have a width of their own, and the mask's border is soft
RIM = 0.4  # vertices whose normal is this close to perpendicular to the view are on an outline
NEIGHBOURS = 24


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit vertex normals (V, 3), area weighted."""
    corner = vertices[faces].astype(np.float64)
    cross = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    out = np.stack(
        [np.bincount(faces.ravel(), np.repeat(cross[:, k], 3), len(vertices)) for k in range(3)], 1
    )
    return out / (np.linalg.norm(out, axis=1, keepdims=True) + 1e-12)


def silhouette(vertices: np.ndarray, faces: np.ndarray, camera: Camera) -> np.ndarray:
    """(H, W) bool: pixels that the mesh covers."""
    xy, depth = camera.project(vertices)
    out = np.zeros((camera.height, camera.width), np.uint8)
    limit = 4 * max(camera.width, camera.height)
    good = (depth[faces] > 0.05).all(1) & (np.abs(xy[faces]) < limit).all((1, 2))
    for corner in np.round(xy[faces[good]] * 16 - 8).astype(np.int32):
        cv2.fillConvexPoly(out, corner, 1, lineType=cv2.LINE_8, shift=4)
    return out > 0


def clothed_surface(template: Template, vertices: np.ndarray, camera: Camera, mask: np.ndarray) -> np.ndarray:
    """Posed template vertices (V, 3) moved out to the mask (H, W) -> displacement (V, 3) in metres."""
    normals = vertex_normals(vertices, template.faces)
    covered = silhouette(vertices, template.faces, camera)
    position = template.layout_positions
    hand = template.bone_weight("wrist", "finger", "metacarpal")
    head = template.bone_weight("head", "eye.")
    front = position[head > 0.9, 1].min() + 0.075
    skin = template.part == 0
    cloth = skin & (hand < 0.3) & (head < 0.3)
    scalp = skin & (head > 0.5) & (position[:, 1] > front) & (position[:, 2] > 0.66)
    distance = _border_distance(vertices, normals, camera, mask, covered, skin & (cloth | scalp))
    offset = np.zeros(len(vertices))
    for region in (cloth, scalp):
        known = np.flatnonzero(region & np.isfinite(distance))
        if len(known) < 20:
            continue
        key = np.array([1.0, 0.5, 1.0])
        rows = np.flatnonzero(region)
        near, which = cKDTree(position[known] * key).query(
            position[rows] * key, k=min(NEIGHBOURS, len(known))
        )
        weight = 1 / (near + 0.01) ** 2
        offset[rows] = (weight * distance[known][which]).sum(1) / weight.sum(1)
    # Fade to nothing at the wrists, the neck and the face, where skin begins.
    fade = np.clip(1 - hand / 0.3, 0, 1) * np.where(cloth, np.clip(1 - head / 0.3, 0, 1), 1)
    offset = _smooth(offset * fade, template, rounds=6)
    return (normals * offset[:, None]).astype(np.float32)


def _border_distance(
    vertices: np.ndarray,
    normals: np.ndarray,
    camera: Camera,
    mask: np.ndarray,
    covered: np.ndarray,
    candidates: np.ndarray,
) -> np.ndarray:
    """(V,) signed metres along the normal from outline vertices to the mask's border; NaN where not known."""
    out = np.full(len(vertices), np.nan)
    eye = camera.position
    view = vertices - eye
    view = view / np.linalg.norm(view, axis=1, keepdims=True)
    rim = np.flatnonzero(candidates & (np.abs((normals * view).sum(1)) < RIM))
    steps = np.arange(-round(INSIDE_M / STEP_M), round(OUTSIDE_M / STEP_M) + 1)
    zero = int(np.flatnonzero(steps == 0)[0])
    flat = normals[rim] - (normals[rim] * view[rim]).sum(1, keepdims=True) * view[rim]
    flat = flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-9)
    path = vertices[rim, None] + flat[:, None] * (steps * STEP_M)[None, :, None]
    xy, _ = camera.project(path)
    column, row = np.floor(xy[..., 0]).astype(int), np.floor(xy[..., 1]).astype(int)
    inside_image = (column >= 1) & (row >= 1) & (column < camera.width - 1) & (row < camera.height - 1)
    column, row = column.clip(0, camera.width - 1), row.clip(0, camera.height - 1)
    person, own = mask[row, column], covered[row, column]
    # An outline against the person's own body further out (an arm before the torso) says nothing.
    beyond = slice(zero + 4, zero + 10)
    usable = inside_image[:, : zero + 10].all(1) & ~own[:, beyond].any(1)
    for k in np.flatnonzero(usable):
        line = person[k] & inside_image[k]
        if line[zero]:
            end = zero
            while end + 1 < len(steps) and line[end + 1]:
                end += 1
            if end + 1 < len(steps):
                out[rim[k]] = steps[end] * STEP_M - INSET_M
        else:
            back = zero
            while back > 0 and not line[back]:
                back -= 1
            out[rim[k]] = steps[back] * STEP_M - INSET_M if line[back] else 0.0
    return out


def _smooth(value: np.ndarray, template: Template, rounds: int) -> np.ndarray:
    """Average each vertex with its mesh neighbours a few times."""
    faces = template.faces
    a = np.concatenate([faces[:, 0], faces[:, 1], faces[:, 2]])
    b = np.concatenate([faces[:, 1], faces[:, 2], faces[:, 0]])
    degree = np.bincount(a, minlength=len(value)).clip(1)
    for _ in range(rounds):
        value = 0.5 * value + 0.5 * np.bincount(a, value[b], len(value)) / degree
    return value
