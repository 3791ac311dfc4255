"""Clothes cut from the body model's helper shells (tights, skirt), so that they fit and move with any body.

A garment is the shell subdivided once, smoothed (no navel or muscles show through), pushed out along its normals, eased
away from the limb axes, and trimmed by one scalar `cut` per vertex (negative = cloth) that the rasteriser interpolates,
which gives smooth hems and necklines on a coarse mesh. All patterns live in template space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse

from avatar_core.procedural.people.body_model import RestShape, load_body_model
from avatar_core.procedural.people.noise import smoothstep
from avatar_core.procedural.people.raster import vertex_normals
from avatar_core.procedural.people.regions import regions

# a trim scalar: template points (n, 3), arm coordinate (n,) -> (n,), negative where there is cloth
Cut = Callable[[np.ndarray, np.ndarray], np.ndarray]

# top: sleeve end on the arm coordinate, hem above the hip joint, neckline height, depth and width of the neck opening
TOPS = {
    "tee": (0.62, -0.02, 0.002, 0.035, 0.075),
    "long": (1.95, -0.03, 0.012, 0.030, 0.070),
    "tank": (-0.12, 0.00, -0.045, 0.050, 0.095),
    "polo": (0.55, -0.03, 0.026, 0.055, 0.030),
    "sweater": (1.95, -0.04, 0.020, 0.020, 0.070),
    "shirt": (1.95, -0.06, 0.028, 0.070, 0.030),
    "blouse": (1.40, -0.03, 0.000, 0.085, 0.055),
    "jacket": (1.93, -0.09, 0.020, 0.300, 0.070),
    "cardigan": (1.93, -0.07, 0.012, 0.420, 0.052),
}
BOTTOMS = ("trousers", "jeans", "shorts", "leggings", "skirt", "longskirt")


@dataclass(frozen=True)
class Shell:
    """A subdivided helper mesh: `rows` maps base.obj vertices to shell vertices."""

    quads: np.ndarray  # (Q, 4)
    rows: sparse.csr_matrix  # (n, V)
    template: np.ndarray  # (n, 3)
    arm: np.ndarray  # (n,)
    weights_index: np.ndarray  # (n, 8)
    weights: np.ndarray  # (n, 8)
    adjacency: sparse.csr_matrix  # (n, n)


@dataclass(frozen=True)
class Piece:
    """A ready mesh part. color (n, 3) linear; cut (n,) positive = discarded; material = row of the material table."""

    vertices: np.ndarray
    triangles: np.ndarray
    weights_index: np.ndarray
    weights: np.ndarray
    template: np.ndarray
    cut: np.ndarray


def quads_to_triangles(quads: np.ndarray) -> np.ndarray:
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)


def _subdivide(quads: np.ndarray, n_source: int) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Split every quad in four; returns the new quads and the interpolation matrix from the source vertices."""
    corners = np.unique(quads)
    index = {int(v): i for i, v in enumerate(corners)}
    recipe: list[dict[int, float]] = [{int(v): 1.0} for v in corners]
    middles: dict[tuple[int, int], int] = {}
    out = []

    def middle(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in middles:
            middles[key] = len(recipe)
            recipe.append({a: 0.5, b: 0.5})
        return middles[key]

    for a, b, c, d in quads.tolist():
        m = [middle(a, b), middle(b, c), middle(c, d), middle(d, a)]
        centre = len(recipe)
        recipe.append({a: 0.25, b: 0.25, c: 0.25, d: 0.25})
        out += [
            [index[a], m[0], centre, m[3]],
            [m[0], index[b], m[1], centre],
            [centre, m[1], index[c], m[2]],
            [m[3], centre, m[2], index[d]],
        ]
    row = [i for i, terms in enumerate(recipe) for _ in terms]
    column = [v for terms in recipe for v in terms]
    weight = [w for terms in recipe for w in terms.values()]
    return np.array(out), sparse.csr_matrix((weight, (row, column)), shape=(len(recipe), n_source))


@lru_cache(maxsize=4)
def shell(name: str) -> Shell:
    """The subdivided helper shell "tights" or "skirt"."""
    model, r = load_body_model(), regions()
    n = len(model.neutral)
    quads, rows = _subdivide(model.quads["helper-" + name], n)
    k = model.weights.shape[1]
    owner = (np.repeat(np.arange(n), k), model.weights_index.ravel())
    dense = rows @ sparse.csr_matrix((model.weights.ravel(), owner), shape=(n, len(model.bone_names)))
    dense = sparse.csr_matrix(dense).toarray()
    top = np.argsort(-dense, 1, kind="stable")[:, :8]
    weights = np.take_along_axis(dense, top, 1)
    weights /= weights.sum(1, keepdims=True)
    on_arm = rows @ (r.arm > -0.99).astype(float) > 0.5
    arm = (
        np.where(on_arm, rows @ np.maximum(r.arm, -0.3), -1.0)
        if name == "tights"
        else np.full(len(top), -1.0)
    )
    e = np.concatenate([quads[:, [0, 1]], quads[:, [1, 2]], quads[:, [2, 3]], quads[:, [3, 0]]])
    e = np.concatenate([e, e[:, ::-1]])
    adjacency = sparse.csr_matrix((np.ones(len(e)), (e[:, 0], e[:, 1])), shape=(len(top), len(top)))
    adjacency.data[:] = 1
    degree = np.asarray(adjacency.sum(1)).ravel()
    adjacency = sparse.csr_matrix(sparse.diags(1 / degree) @ adjacency)
    template = (rows @ model.neutral).astype(np.float32)
    return Shell(
        quads, rows, template, arm, top.astype(np.int64), weights.astype(np.float32), adjacency.tocsr()
    )


def cut_top(points: np.ndarray, arm: np.ndarray, kind: str, hem_lift: float = 0.0) -> np.ndarray:
    """Trim scalar of a top at template-space points (n, 3): negative where there is cloth, about metres to the edge."""
    r = regions()
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    sleeve, hem, neck, depth, width = TOPS[kind]
    cut = np.maximum(-1.0, (arm - sleeve) * 0.28)
    cut = np.maximum(cut, np.where(arm < 0, r.z["hip"] + hem + hem_lift - z, -1))
    opening = np.where(y < r.neck_y - 0.01, (depth + 0.02) * np.clip(1 - (x / width) ** 2, 0, 1), 0.0)
    cut = np.maximum(cut, np.where(x < 0.14, z - (r.z["neck"] + neck + 0.02 - opening), -1))
    if kind == "tank":
        cut = np.maximum(cut, np.where(z > r.z["shoulder"] - 0.03, x - 0.135, -1))
    return cut


def cut_bottom(points: np.ndarray, arm: np.ndarray, kind: str) -> np.ndarray:
    """Trim scalar of trousers, shorts and skirts."""
    r = regions()
    low = {
        "trousers": r.z["ankle"] - 0.015,
        "jeans": r.z["ankle"] - 0.005,
        "leggings": r.z["ankle"] + 0.03,
        "shorts": r.z["knee"] + 0.06,
        "skirt": r.z["knee"] + 0.03,
        "longskirt": r.z["ankle"] + 0.12,
    }[kind]
    z = points[:, 2]
    return np.where(arm > -0.99, 1.0, np.maximum(low - z, z - (r.z["hip"] + 0.075)))


def cut_shoe(points: np.ndarray, _arm: np.ndarray, kind: str) -> np.ndarray:
    """Trim scalar of shoes: low shoe or boot shaft."""
    r = regions()
    return points[:, 2] - (r.z["ankle"] + (0.09 if kind == "boot" else -0.02))


def _ease_legs(
    points: np.ndarray, template: np.ndarray, arm: np.ndarray, rest: RestShape, radii: tuple[float, float]
) -> np.ndarray:
    """Push legs out to a radius round the bone (hip radius, ankle radius): leggings become trousers."""
    model, r = load_body_model(), regions()
    out = points.copy()
    for side, sign in (("L", 1), ("R", -1)):
        hip, knee, foot = (
            rest.heads[model.bone_names.index(f"{b}.{side}")] for b in ("upperleg01", "lowerleg01", "foot")
        )
        chosen = (template[:, 0] * sign > 0) & (arm < -0.99) & (template[:, 2] < r.z["hip"] - 0.02)
        z = points[:, 2]
        above = np.clip((z - knee[2]) / (hip[2] - knee[2]), 0, 1)[:, None]
        below = np.clip((z - foot[2]) / (knee[2] - foot[2]), -0.2, 1)[:, None]
        axis = np.where(z[:, None] > knee[2], knee + (hip - knee) * above, foot + (knee - foot) * below)
        offset = points - axis
        offset[:, 2] = 0
        radius = np.linalg.norm(offset, axis=1, keepdims=True) + 1e-6
        fade = smoothstep(0, 0.22, (hip[2] - 0.03) - z)[:, None]
        wanted = (radii[0] + (radii[1] - radii[0]) * smoothstep(hip[2] - 0.1, foot[2], z))[:, None]
        grown = np.maximum(radius * (1 + 0.06 * fade), wanted * fade * 0.55 + radius * 0.50)
        out = np.where(chosen[:, None], out + offset / radius * np.maximum(grown - radius, 0) * fade, out)
    return out


def _ease_arms(
    points: np.ndarray, template: np.ndarray, arm: np.ndarray, rest: RestShape, wanted: float
) -> np.ndarray:
    """Loosen sleeves to a minimum radius round the arm bones."""
    model = load_body_model()
    out = points.copy()
    for side, sign in (("L", 1), ("R", -1)):
        a, b, c = (
            rest.heads[model.bone_names.index(f"{n}.{side}")] for n in ("upperarm01", "lowerarm01", "wrist")
        )
        chosen = (arm > -0.2) & (template[:, 0] * sign > 0)
        upper = (arm < 1)[:, None]
        axis = np.where(upper, (b - a) / np.linalg.norm(b - a), (c - b) / np.linalg.norm(c - b))
        offset = points - np.where(upper, a, b)
        offset = offset - axis * (offset * axis).sum(1, keepdims=True)
        radius = np.linalg.norm(offset, axis=1, keepdims=True) + 1e-6
        fade = smoothstep(0.30, 0.95, arm)[:, None]
        grown = np.maximum(radius, wanted * fade * 0.6 + radius * 0.45)
        out = np.where(chosen[:, None], out + offset / radius * np.maximum(grown - radius, 0) * fade, out)
    return out


def sew(
    base: str,
    cut: Cut,
    rest: RestShape,
    offset: float,
    smoothing: int,
    leg: tuple[float, float] | None = None,
    sleeve: float | None = None,
    tuck: tuple[float, float] | None = None,
) -> Piece:
    """Build one garment on the shell `base`. cut(template points, arm coordinate) -> (n,); offset in metres.

    tuck: template heights between which the offset fades to nothing downwards (a top under a skirt)."""
    s = shell(base)
    trim = cut(s.template, s.arm).astype(np.float32)
    points = s.rows @ rest.vertices.astype(np.float64)
    for _ in range(smoothing):
        points = 0.5 * points + 0.5 * (s.adjacency @ points)
    triangles = quads_to_triangles(s.quads)
    normals = np.zeros_like(points)
    vertex_normals(points, triangles, normals)
    lift = np.full(len(points), offset)
    if tuck is not None:
        lift = np.where(s.arm > -0.99, lift, -0.002 + (lift + 0.002) * smoothstep(*tuck, s.template[:, 2]))
    points = points + normals * lift[:, None]
    if leg is not None:
        points = _ease_legs(points, s.template, s.arm, rest, leg)
    if sleeve is not None:
        points = _ease_arms(points, s.template, s.arm, rest, sleeve)
    keep = ~(trim[triangles] > 0).all(1)
    return Piece(points.astype(np.float32), triangles[keep], s.weights_index, s.weights, s.template, trim)
