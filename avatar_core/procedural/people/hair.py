"""Hair as camera-facing ribbons grown on the scalp by a flow field per style, kept outside the body.

A style is a handful of numbers (count, nodes, length, width, shell thickness) plus a direction field. Strands are rigid with
the head and blend to the upper spine below the chin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.spatial import KDTree

from avatar_core.procedural.people.anny_export import BODY_VERTICES, TEXTURE_SIZE
from avatar_core.procedural.people.body_model import RestShape, load_body_model
from avatar_core.procedural.people.noise import linear_rgb, smoothstep
from avatar_core.procedural.people.raster import vertex_normals
from avatar_core.procedural.people.regions import regions, scalp

# strands, nodes per strand, length m, ribbon width m, shell thickness m
STYLES = {
    "buzz": (9000, 3, 0.008, 0.0010, 0.003),
    "crop": (9000, 5, 0.022, 0.0011, 0.006),
    "side": (9000, 8, 0.075, 0.0012, 0.012),
    "bob": (8000, 11, 0.19, 0.0014, 0.014),
    "long": (8000, 16, 0.36, 0.0015, 0.012),
    "bun": (8000, 10, 0.17, 0.0013, 0.004),
    "afro": (11000, 9, 0.052, 0.0012, 0.042),
    "short_afro": (10000, 6, 0.026, 0.0011, 0.02),
}
CURLY = ("afro", "short_afro")
LOOSE = ("long", "bob")


@dataclass(frozen=True)
class Hair:
    """n strands of S nodes."""

    points: np.ndarray  # (n, S, 3)
    normals: np.ndarray  # (n, S, 3) shading normals
    color: np.ndarray  # (n, 3) linear
    occlusion: np.ndarray  # (n, S)
    weights_index: np.ndarray  # (n * S, 2)
    weights: np.ndarray  # (n * S, 2)
    width: float


def _roots(
    rng: np.random.Generator, count: int, rest: RestShape, normals: np.ndarray, receding: float
) -> tuple[np.ndarray, np.ndarray]:
    """Random area-uniform points on the scalp: positions and normals, (count, 3) each."""
    model, r = load_body_model(), regions()
    vertex = model.skin_vertex
    faces = model.skin_faces[(r.head[vertex] > 0.5)[model.skin_faces].all(1)]
    uv = np.clip((model.skin_uv * [1, -1] + [0, 1]) * TEXTURE_SIZE, 0, TEXTURE_SIZE - 1).astype(int)
    ear = model.masks["ears"][uv[:, 1], uv[:, 0]]
    hairy = scalp(model.neutral[vertex], receding - 0.004)
    faces = faces[(hairy[faces].mean(1) > 0.5) & (ear[faces].mean(1) < 0.2)]
    points, unit = rest.vertices[vertex].astype(np.float64), normals[vertex].astype(np.float64)
    a, b, c = (points[faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = faces[rng.choice(len(faces), count, p=area / area.sum())]
    u = rng.random((count, 2))
    u = np.where(u.sum(1, keepdims=True) > 1, 1 - u, u)
    w = np.stack([1 - u.sum(1), u[:, 0], u[:, 1]], 1)[..., None]
    n = (unit[chosen] * w).sum(1)
    return (points[chosen] * w).sum(1), n / np.linalg.norm(n, axis=1, keepdims=True)


def _direction(
    style: str,
    k: int,
    nodes: int,
    p: np.ndarray,
    p0: np.ndarray,
    n0: np.ndarray,
    eye: np.ndarray,
    part: float,
    phase: np.ndarray,
    crown: np.ndarray,
) -> np.ndarray:
    """Growth direction of every strand at node k, (n, 3), not normalised."""
    one = np.ones(len(p))
    if style in ("crop", "buzz"):
        return np.stack([0.25 * np.sign(p0[:, 0] - part), -0.6 * one, -0.25 * one], 1) + n0 * (
            0.9 if k < 2 else 0.27
        )
    if style == "side":
        side = np.where(p0[:, 0] > part + 0.007 * np.cos(7 * phase), 1.0, -1.0)
        up = smoothstep(eye[2] + 0.045, eye[2] + 0.09, p0[:, 2])
        f = np.stack([side * 0.9, 0.55 * up + 0.15, -0.55 + 0.3 * up], 1)
        return f + n0 * (1.0 if k < 2 else 0.15) * up[:, None]
    if style in LOOSE:
        soft = part + 0.007 * np.cos(7 * phase)  # a ragged parting: a straight one shows as a notch
        side, t = np.where(p0[:, 0] > soft, 1.0, -1.0), k / nodes
        f = np.stack([side * max(0.9 - 3.2 * t, 0.0), (0.40 - 0.5 * t) * one, (-0.35 - 1.6 * t) * one], 1)
        f = f + n0 * (0.8 if k < 1 else 0)
        low = smoothstep(0.02, -0.06, p[:, 2] - eye[2])
        hang = np.sign(p[:, 0]) * (0.080 if style == "long" else 0.086)
        f[:, 0] += low * np.clip((hang - p[:, 0]) * 14, -0.9, 0.9)
        front = (p[:, 1] < eye[1] + 0.045) & (p[:, 2] < eye[2] + 0.075) & (p[:, 2] > eye[2] - 0.16)
        f[:, 1] += front * 1.6
        f[:, 0] += front * np.sign(p[:, 0]) * 0.5 * (np.abs(p[:, 0]) < 0.07)
        return f
    if style == "bun":
        f = crown - p
        return f / (np.linalg.norm(f, axis=1, keepdims=True) + 1e-6) + n0 * (0.5 if k < 1 else 0)
    curl = np.stack(
        [np.cos(phase + k * 2.1), np.sin(phase * 1.7 + k * 2.3), np.cos(phase * 2.3 + k * 1.9)], 1
    )
    return n0 + 0.75 * curl


def _push_out(
    p: np.ndarray,
    tree: KDTree,
    surface: np.ndarray,
    normals: np.ndarray,
    margin: np.ndarray,
    hug: np.ndarray,
    hug_floor: np.ndarray,
) -> np.ndarray:
    """Keep strands outside the body by `margin`; pull them down to the shell where hug is positive."""
    distance, near = tree.query(p, k=3)
    w = 1 / (distance + 1e-4)
    w /= w.sum(1, keepdims=True)
    q = (surface[near] * w[..., None]).sum(1)
    n = (normals[near] * w[..., None]).sum(1)
    n /= np.linalg.norm(n, axis=1, keepdims=True) + 1e-9
    height = ((p - q) * n).sum(1)
    p = p + n * np.maximum(0, margin - height)[:, None]
    return p - n * (np.maximum(0, height - hug_floor) * hug)[:, None]


def _bun_ball(rng: np.random.Generator, centre: np.ndarray, strands: int, nodes: int) -> np.ndarray:
    """A knot of wrapped strands, (strands, nodes, 3)."""
    start = rng.random(strands) * 2 * math.pi
    latitude = rng.uniform(-1, 1, strands)
    radius = 0.034 * rng.uniform(0.8, 1.0, strands)
    axis = rng.normal(size=(strands, 3)) * 0.35 + np.array([0, 1, 0.2])
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    e1 = np.cross(axis, np.array([1.0, 0, 0]))
    e1 /= np.linalg.norm(e1, axis=1, keepdims=True)
    e2 = np.cross(axis, e1)
    angle = (start[:, None] + np.linspace(0, 1.4, nodes)[None])[..., None]
    ring = np.sqrt(1 - latitude**2 * 0.95)[:, None, None]
    wrap = ring * (e1[:, None] * np.cos(angle) + e2[:, None] * np.sin(angle))
    return centre + radius[:, None, None] * (axis[:, None] * latitude[:, None, None] + wrap)


def grow_hair(look: Mapping, rest: RestShape, seed: int) -> Hair | None:
    """Hair of one person, or None when bald. look: hair_style, hair_color, grey, part, wave, volume, hair_length, receding."""
    style = look["hair_style"]
    if style == "bald":
        return None
    model, r = load_body_model(), regions()
    rng = np.random.default_rng([seed, 11])
    count, nodes, length, width, thickness = STYLES[style]
    surface = rest.vertices[:BODY_VERTICES].astype(np.float64)
    normals = np.zeros_like(surface)
    vertex_normals(surface, model.body_faces, normals)
    p0, n0 = _roots(rng, count, rest, normals, look["receding"])
    eye = rest.vertices[np.unique(model.quads["helper-l-eye"])].mean(0).astype(np.float64)
    skull = np.array([0, eye[1] + 0.085, eye[2] + 0.03])
    crown = skull + np.array([0, 0.105, 0.03])
    strand = length * look["hair_length"] * rng.uniform(0.8, 1.1, count)
    if style == "side":
        strand = strand * (0.45 + 0.55 * smoothstep(eye[2] + 0.03, eye[2] + 0.075, p0[:, 2]))
    if style == "crop":
        strand = strand * (0.45 + 0.75 * smoothstep(eye[2], eye[2] + 0.08, p0[:, 2]))
    near = (r.neck[:BODY_VERTICES] > 0.2) | (
        (model.neutral[:BODY_VERTICES, 2] > r.z["shoulder"] - 0.35) & (r.arm[:BODY_VERTICES] < 0.8)
    )
    tree, surface, normals = KDTree(surface[near], leafsize=16), surface[near], normals[near]
    lock, lock_bend = rng.integers(0, 260, count), rng.normal(size=(260, 3))
    phase = rng.random(count) * 2 * math.pi
    layer = thickness * look["volume"] * rng.random(count) ** 0.6
    if style in ("long", "bob", "side"):  # flat at the parting, or it shows as a deep groove
        layer = layer * (0.3 + 0.7 * smoothstep(0.0, 0.04, np.abs(p0[:, 0] - look["part"])))
    p, previous, points = p0 + n0 * 0.0005, n0.copy(), []
    points.append(p)
    for k in range(nodes):
        f = _direction(style, k, nodes, p, p0, n0, eye, look["part"], phase, crown)
        f = f / (np.linalg.norm(f, axis=1, keepdims=True) + 1e-9)
        if style not in CURLY:
            f = f + 0.10 * lock_bend[lock] + rng.normal(size=f.shape) * 0.05
            if look["wave"]:
                wave = np.stack([np.cos(lock * 1.3 + k * 1.1), np.sin(lock * 2.1 + k * 1.1), 0 * phase], 1)
                f = f + look["wave"] * wave
            f = 0.45 * previous + 0.55 * f
        f /= np.linalg.norm(f, axis=1, keepdims=True)
        step = p + f * (strand / nodes)[:, None]
        margin = layer * min(1, (k + 1) / 2.5) + 0.0015
        for _ in range(2):
            hug = 0.8 * (step[:, 2] > eye[2] - 0.02) * (style not in CURLY and style != "buzz")
            step = _push_out(step, tree, surface, normals, margin, hug, layer + 0.004)
        if style == "bun":
            step = np.where((np.linalg.norm(crown - p, axis=1) < 0.03)[:, None], p, step)
        previous = step - p
        previous /= np.linalg.norm(previous, axis=1, keepdims=True) + 1e-9
        p = step
        points.append(p)
    strands = np.stack(points, 1)
    if style in LOOSE:  # no lonely strands across the face
        x, y, z = np.abs(strands[..., 0]), strands[..., 1] - eye[1], strands[..., 2] - eye[2]
        stray = ((x < 0.058) & (y < 0.022) & (z < 0.062) & (z > -0.11)).any(1)
        strands, p0 = strands[~stray], p0[~stray]
    if style == "bun":
        strands = np.concatenate(
            [strands, _bun_ball(rng, crown + np.array([0, 0.013, 0.005]), 2500, nodes + 1)]
        )
    return _finish(look, rest, rng, strands, p0, skull, tree, length, width)


def _finish(
    look: Mapping,
    rest: RestShape,
    rng: np.random.Generator,
    strands: np.ndarray,
    p0: np.ndarray,
    skull: np.ndarray,
    tree: KDTree,
    length: float,
    width: float,
) -> Hair:
    """Colour, occlusion, shading normals and skin weights of grown strands."""
    model = load_body_model()
    style, n = look["hair_style"], len(strands)
    color = (
        linear_rgb(look["hair_color"])
        * np.exp(rng.normal(size=(n, 1)) * 0.16)
        * (1 + rng.normal(size=(n, 3)) * 0.03)
    )
    silver = (rng.random((n, 1)) < look["grey"]) * 0.10
    color = color * (1 - silver) + linear_rgb((186, 184, 181)) * silver
    z = strands[..., 2]
    lips = np.unique(model.skin_vertex[_lip_skin()])
    below = smoothstep(0, 0.22, rest.vertices[lips, 2].mean() - 0.03 - z)
    bones = [model.bone_names.index(b) for b in ("head", "spine01")]
    occlusion = np.repeat(np.clip(0.40 + 0.60 * np.linspace(0, 1, strands.shape[1]) ** 0.8, 0, 1)[None], n, 0)
    if style in LOOSE:
        distance, _ = tree.query(strands.reshape(-1, 3))
        occlusion = np.clip(0.45 + distance.reshape(n, -1) / 0.03 * 0.5, 0, 1) * 0.95
    if style in CURLY:
        reach = np.linalg.norm(strands - p0[:, None], axis=2) / (length * 0.55)
        occlusion = np.clip(0.25 + 0.8 * reach**1.2, 0, 1)
    floor = np.minimum(z, skull[2]) if style in LOOSE else np.full_like(z, skull[2])
    normals = strands - np.stack([np.zeros_like(z), np.full_like(z, skull[1]), floor], -1)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True) + 1e-9
    return Hair(
        points=strands.astype(np.float32),
        normals=normals.astype(np.float32),
        color=np.clip(color, 0, 1).astype(np.float32),
        occlusion=occlusion.astype(np.float32),
        weights_index=np.broadcast_to(np.array(bones), (z.size, 2)).astype(np.int64),
        weights=np.stack([1 - below, below], -1).reshape(-1, 2).astype(np.float32),
        width=width,
    )


def _lip_skin() -> np.ndarray:
    model = load_body_model()
    uv = np.clip((model.skin_uv * [1, -1] + [0, 1]) * TEXTURE_SIZE, 0, TEXTURE_SIZE - 1).astype(int)
    return model.masks["lips"][uv[:, 1], uv[:, 0]] > 0.6


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def ribbons(
    points: np.ndarray, eye: np.ndarray, width: float, vertices: np.ndarray, tangents: np.ndarray
) -> None:
    """Camera-facing ribbons: points (n, S, 3) -> vertices and tangents (n * S * 2, 3)."""
    n, nodes = points.shape[0], points.shape[1]
    for i in range(n):
        for k in range(nodes):
            a = max(0, k - 1)
            b = min(nodes - 1, k + 1)
            tx = points[i, b, 0] - points[i, a, 0]
            ty = points[i, b, 1] - points[i, a, 1]
            tz = points[i, b, 2] - points[i, a, 2]
            s = 1 / math.sqrt(tx * tx + ty * ty + tz * tz + 1e-12)
            tx *= s
            ty *= s
            tz *= s
            vx = eye[0] - points[i, k, 0]
            vy = eye[1] - points[i, k, 1]
            vz = eye[2] - points[i, k, 2]
            sx = ty * vz - tz * vy
            sy = tz * vx - tx * vz
            sz = tx * vy - ty * vx
            taper = 1.0 if k < nodes - 2 else (0.75 if k == nodes - 2 else 0.3)
            h = width * 0.5 * taper / math.sqrt(sx * sx + sy * sy + sz * sz + 1e-12)
            for side in range(2):
                q = (i * nodes + k) * 2 + side
                g = h if side else -h
                vertices[q, 0] = points[i, k, 0] + sx * g
                vertices[q, 1] = points[i, k, 1] + sy * g
                vertices[q, 2] = points[i, k, 2] + sz * g
                tangents[q, 0] = tx
                tangents[q, 1] = ty
                tangents[q, 2] = tz


def ribbon_triangles(strands: int, nodes: int) -> np.ndarray:
    """(strands * (nodes - 1) * 2, 3) int32, strand by strand."""
    base = (np.arange(strands)[:, None] * nodes + np.arange(nodes - 1)[None]).reshape(-1, 1) * 2
    return (base + np.array([0, 1, 2, 1, 3, 2])).reshape(-1, 3).astype(np.int32)
