"""What moves with a body without being bone or face action: hair that swings, cloth that lags, cheeks that give, a chest that
fills, lips whose corners stick as they part.

Soft points follow late: the transforms of the bones pass through a damped oscillator, and a point is carried by a blend of
both, by how loose it is. The oscillator is linear and a transform affine in the point, so filtering twelve numbers a bone
filters the path of every point on it.

Legend: T frames, B bones, M mesh vertices, V base.obj vertices, R hair nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from avatar_core.clock import FPS
from avatar_core.procedural.people.anny_export import BODY_VERTICES
from avatar_core.procedural.people.body_model import RestShape, load_body_model
from avatar_core.procedural.people.hair import CURLY, LOOSE, Hair
from avatar_core.procedural.people.mesh import CLOTH, Mesh
from avatar_core.procedural.people.noise import bump, smoothstep
from avatar_core.procedural.people.raster import skin_points
from avatar_core.procedural.people.regions import regions

HAIR_HZ, HAIR_DAMPING = 1.4, 0.18
SOFT_HZ, SOFT_DAMPING = 2.8, 0.3  # cloth and cheeks
CLOTH_SHARE, CHEEK_SHARE = 0.5, 0.5
CHEST_M = 0.004  # how far a deep breath lifts the breastbone
STICK_S = 0.07  # in which corners of lips part after a closure
SUBSTEPS = 16  # of the oscillator in a frame


@dataclass(frozen=True)
class Late:
    """One frame: late transforms (B, 3, 4) of hair and of what is soft; breath about -1..1; stick 0..1, how much lips stick."""

    hair: np.ndarray
    soft: np.ndarray
    breath: float
    stick: float


@dataclass(frozen=True)
class Points:
    """Of some points: soft (n,) share that follows late; chest (n, 3) m a unit of breath; corner (n,) 1 at the corners of lips."""

    soft: np.ndarray
    chest: np.ndarray
    corner: np.ndarray


def late_frames(
    transforms: np.ndarray, breath: np.ndarray, closed_until: np.ndarray, stick: float
) -> list[Late]:
    """transforms (T, B, 3, 4) of the bones; breath (T,); closed_until (n,) s, the ends of closures; stick: the person's, 0..1."""
    hair = damped(transforms, HAIR_HZ, HAIR_DAMPING).astype(np.float32)
    soft = damped(transforms, SOFT_HZ, SOFT_DAMPING).astype(np.float32)
    time = (np.arange(len(transforms)) + 0.5) / FPS
    since = time[:, None] - closed_until[None]
    sticking = np.where(since >= 0, np.exp(-since / STICK_S), 0).max(1, initial=0.0) * stick
    return [Late(h, s, float(b), float(k)) for h, s, b, k in zip(hair, soft, breath, sticking, strict=True)]


def damped(values: np.ndarray, hertz: float, damping: float) -> np.ndarray:
    """values (T, ...) as followed by a mass on a spring of that frequency and damping ratio; it starts in step with them.

    y'' = w^2 (x - y) - 2 d w y', w = 2 pi hertz, semi-implicit Euler, x linear within a frame.
    Locked by test_a_spring_follows_late_swings_past_and_comes_to_rest.
    """
    x = np.asarray(values, np.float64)
    out, w, h = x.copy(), 2 * np.pi * hertz, 1 / (FPS * SUBSTEPS)
    y, velocity = x[0].copy(), np.zeros_like(x[0])
    if len(x) > 1:
        velocity += (x[1] - x[0]) * FPS
    for t in range(1, len(x)):
        for k in range(1, SUBSTEPS + 1):
            drive = x[t - 1] + (x[t] - x[t - 1]) * (k / SUBSTEPS)
            velocity += h * (w * w * (drive - y) - 2 * damping * w * velocity)
            y += h * velocity
        out[t] = y
    return out


def mesh_points(mesh: Mesh, rest: RestShape) -> Points:
    """Of a person's mesh: cloth is as loose as it stands off the skin."""
    body, kind = _body_points(mesh.template), mesh.table[:, 0]
    cloth = np.zeros(len(mesh.points), bool)
    cloth[mesh.triangles[kind[mesh.material] == CLOTH].ravel()] = True
    gap, _ = KDTree(rest.vertices[:BODY_VERTICES]).query(mesh.points[cloth])
    soft = body.soft.copy()
    soft[cloth] = CLOTH_SHARE * smoothstep(0.008, 0.045, gap)
    return Points(soft.astype(np.float32), body.chest, body.corner)


def base_points() -> Points:
    """Of the vertices (V,) of base.obj."""
    return _body_points(load_body_model().neutral)


def loose_hair(look: Mapping, hair: Hair, rest: RestShape) -> np.ndarray:
    """(n, S) share of a hair node that follows late: the free ends of long hair, a little of curls, nothing of what is cropped."""
    style, z = look["hair_style"], hair.points[..., 2]
    along = np.linspace(0, 1, z.shape[1])[None]
    if style in LOOSE:
        eye = rest.vertices[np.unique(load_body_model().quads["helper-l-eye"])].mean(0)[2]
        return (0.85 * smoothstep(0.0, -0.20, z - eye) * smoothstep(0.1, 0.5, along)).astype(np.float32)
    share = {"side": 0.15}.get(style, 0.3 if style in CURLY else 0.0)
    return (share * np.broadcast_to(along, z.shape)).astype(np.float32)


def given(points: np.ndarray, rest: np.ndarray, of: Points, late: Late) -> np.ndarray:
    """Points moved by face actions, before bones carry them: corners of lips that stick stay behind, the chest fills."""
    moved = points - rest
    return (rest + (1 - late.stick * of.corner)[:, None] * moved + late.breath * of.chest).astype(np.float32)


def follow(
    posed: np.ndarray,
    points: np.ndarray,
    index: np.ndarray,
    weights: np.ndarray,
    share: np.ndarray,
    late: np.ndarray,
) -> None:
    """Blend posed points with where late transforms (B, 3, 4) carry them, by share (n,); changes `posed`."""
    soft = np.flatnonzero(share > 0.004)
    behind = np.empty((len(soft), 3), np.float32)
    skin_points(points[soft], index[soft], weights[soft], late, behind)
    posed[soft] += share[soft, None] * (behind - posed[soft])


def _body_points(template: np.ndarray) -> Points:
    """Points (n, 3) of the template's space."""
    r = regions()
    side, forward, up = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    lips = r.lips
    front = smoothstep(r.neck_y + 0.03, r.neck_y - 0.03, forward)
    cheek = bump(side - 0.042, 0.018) * bump(up - lips[2] - 0.004, 0.028) * front
    chest_z = 0.35 * r.z["hip"] + 0.65 * r.z["shoulder"]
    chest = CHEST_M * bump(side, 0.13) * bump(up - chest_z, 0.14) * front
    width = float(np.abs(_lip_points()[:, 0]).max())
    corner = smoothstep(0.35, 0.85, side / width) * bump(up - lips[2], 0.016) * bump(forward - lips[1], 0.03)
    corner = corner * (side < 1.5 * width)
    direction = np.array([0.0, -1.0, 0.25])
    return Points(
        (CHEEK_SHARE * cheek).astype(np.float32),
        (chest[:, None] * direction).astype(np.float32),
        corner.astype(np.float32),
    )


def _lip_points() -> np.ndarray:
    model = load_body_model()
    return model.position_map[model.masks["lips"] > 0.6]
