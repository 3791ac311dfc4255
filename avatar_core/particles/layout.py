"""Where the particles sit on the template: dense on face and hands, sparse on the body, the same on every person.

Points are drawn on the neutral template surface by region (importance-weighted candidates thinned by farthest-point
sampling, so that spacing is even and denser where importance is higher). Facial landmarks get a particle each, exactly at
their vertex: the particle at the middle of the inner lips is the vertex where apertures are measured.
Source: AudioAvatar section "Particle-based Gaussian Deformation Field" (dense in face and hands, sparse elsewhere).

Legend: N particles, V template vertices, C candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numba import njit

from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.template.landmarks import FACE_LANDMARKS, LOWER_LIP_MIDDLE, UPPER_LIP_MIDDLE
from avatar_core.template.mesh import PARTS, Template, load_template

REGIONS = {"body": 0, "face": 1, "hand_left": 2, "hand_right": 3, "mouth_interior": 4, "eyes": 5}
FRAMES = {"world": 0, "head": 1, "wrist_left": 2, "wrist_right": 3}

CANDIDATES = 7  # drawn for each particle that is kept
RIGID = 0.97  # skin weight from which a particle counts as rigid with a bone
FINGER = 0.02
BLOCK = 32  # candidates that are passed over together


@dataclass(frozen=True)
class ParticleLayout:
    """N particles on the template. carriers: "head", "wrist_left", "wrist_right" -> indices of world-frame particles that
    are rigid with that frame (skull, back of the hand)."""

    triangles: np.ndarray  # (N, 3) template vertex ids
    barycentric: np.ndarray  # (N, 3) float32
    region: np.ndarray  # (N,) uint8, see REGIONS
    frame: np.ndarray  # (N,) uint8, see FRAMES
    carriers: Mapping[str, np.ndarray]
    lips_upper: np.ndarray  # particle indices at the middle of the inner lips
    lips_lower: np.ndarray
    template_positions: np.ndarray  # (N, 3) on the neutral template
    spacing: np.ndarray  # (N,) metres to the nearest neighbours on the neutral template

    def __len__(self) -> int:
        return len(self.triangles)

    def points(self, vertices: np.ndarray) -> np.ndarray:
        """Particle positions (..., N, 3) on template-topology vertices (..., V, 3)."""
        return np.einsum("...nkc,nk->...nc", np.asarray(vertices)[..., self.triangles, :], self.barycentric)


def make_layout(
    budgets: ParticleBudgets = ParticleBudgets(), template: Template | None = None
) -> ParticleLayout:
    """The layout for these budgets on `template` (None: the versioned one). Deterministic; cached. ValueError below 16 a region."""
    for name in ("face", "hand", "eyes", "mouth_interior", "body"):
        if getattr(budgets, name) < 16:
            raise ValueError(f"particles.{name}: expected 16 or more, found {getattr(budgets, name)}")
    budgets = replace(budgets, shell=0)  # takes no part
    if template is not None and template is not load_template():
        return _make(template, budgets)
    return _cached(budgets)


@lru_cache(maxsize=4)
def _cached(budgets: ParticleBudgets) -> ParticleLayout:
    return _make(load_template(), budgets)


def particle_weights(template: Template, layout: ParticleLayout) -> np.ndarray:
    """Skin weights of the particles, (N, B) float32."""
    out = np.zeros((len(layout), len(template.bone_names)), np.float32)
    rows = np.repeat(np.arange(len(layout)), template.weights.shape[1])
    for k in range(3):
        v = layout.triangles[:, k]
        np.add.at(
            out,
            (rows, template.weights_index[v].ravel()),
            (template.weights[v] * layout.barycentric[:, k, None]).ravel(),
        )
    return out


def _make(template: Template, budgets: ParticleBudgets) -> ParticleLayout:
    x, faces = template.layout_positions.astype(np.float64), template.faces
    region = triangle_regions(template)
    corner = x[faces]
    area = 0.5 * np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
    importance = _importance(template, corner.mean(1), region)
    # A triangle and corner that hold each landmark vertex, to place a particle exactly there.
    landmarks = np.array([i for ids in FACE_LANDMARKS.values() for i in ids])
    vertices = template.vertex_of_base[landmarks]
    holder = {int(v): (f, k) for f, k, v in zip(*_corners(faces, vertices), strict=True)}

    triangles, barycentric, regions = [], [], []
    for name, code in REGIONS.items():
        count = getattr(budgets, "hand" if name.startswith("hand") else name)
        pool = np.flatnonzero(region == code)
        rng = np.random.default_rng([budgets.seed, code, 20260901])
        # Half a triangle's spacing follows its importance: denser by importance squared in count per area.
        share = area[pool] * importance[pool] ** 2
        total = np.cumsum(share)
        draws = (
            (np.arange(count * CANDIDATES) + rng.random(count * CANDIDATES))
            / (count * CANDIDATES)
            * total[-1]
        )
        chosen = pool[np.minimum(np.searchsorted(total, draws), len(pool) - 1)]
        r = rng.random((len(chosen), 2))
        root = np.sqrt(r[:, 0])
        bary = np.stack([1 - root, root * (1 - r[:, 1]), root * r[:, 1]], 1)
        fixed = [holder[int(v)] for v in np.unique(vertices) if region[holder[int(v)][0]] == code]
        if fixed:
            at = np.array([f for f, _ in fixed])
            chosen, bary = np.r_[at, chosen], np.r_[np.eye(3)[[k for _, k in fixed]], bary]
        points = np.einsum("nkc,nk->nc", corner[chosen], bary)
        keep = farthest_points(points, importance[chosen], count, max(len(fixed), 1))
        triangles.append(faces[chosen[keep]])
        barycentric.append(bary[keep])
        regions.append(np.full(count, code, np.uint8))
    tri, bary, region_of = np.concatenate(triangles), np.concatenate(barycentric), np.concatenate(regions)
    positions = np.einsum("nkc,nk->nc", x[tri], bary)
    exact = {
        int(v): i for i, v in enumerate(tri[np.arange(len(tri)), bary.argmax(1)]) if bary[i].max() > 1 - 1e-9
    }
    frame, carriers = _frames(template, tri, bary, region_of)
    return ParticleLayout(
        triangles=tri.astype(np.int32),
        barycentric=bary.astype(np.float32),
        region=region_of,
        frame=frame,
        carriers=carriers,
        lips_upper=np.array([exact[int(template.vertex_of_base[UPPER_LIP_MIDDLE])]], np.int64),
        lips_lower=np.array([exact[int(template.vertex_of_base[LOWER_LIP_MIDDLE])]], np.int64),
        template_positions=positions.astype(np.float32),
        spacing=_spacing(positions, region_of),
    )


def triangle_regions(template: Template) -> np.ndarray:
    """(F,) region code of every template triangle."""
    faces = template.faces
    of = lambda value: value[faces].mean(1)  # noqa: E731
    head = of(template.bone_weight("head", "eye."))
    hands = {s: of(template.bone_weight(*(f"{p}" for p in _hand_bones(template, s)))) for s in "LR"}
    y = of(template.layout_positions[:, 1])
    moved = np.zeros(len(template.vertices))
    moved[template.face_action_vertices] = np.linalg.norm(template.face_actions, axis=-1).max(0)
    front = template.layout_positions[template.bone_weight("head") > 0.9, 1].min() + 0.075
    part = template.part[faces]
    region = np.full(len(faces), REGIONS["body"], np.uint8)
    region[(head > 0.5) & ((y < front) | (of(moved) > 1e-3))] = REGIONS["face"]
    region[hands["L"] > 0.5] = REGIONS["hand_left"]
    region[hands["R"] > 0.5] = REGIONS["hand_right"]
    inside = np.isin(part, [PARTS[p] for p in ("tongue", "upper_teeth", "lower_teeth", "mouth")])
    region[inside.all(1)] = REGIONS["mouth_interior"]
    region[(part == PARTS["eye"]).all(1)] = REGIONS["eyes"]
    return region


def _hand_bones(template: Template, side: str) -> list[str]:
    return [
        b for b in template.bone_names if b.startswith(("wrist", "finger", "metacarpal")) and b.endswith(side)
    ]


def _corners(faces: np.ndarray, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = np.isin(faces, vertices)
    f, k = np.nonzero(found)
    return f, k, faces[f, k]


def _importance(template: Template, middle: np.ndarray, region: np.ndarray) -> np.ndarray:
    """(F,) linear density factor: lips, lids and irises denser; hidden sides of eyeballs and the back of the mouth none."""
    x = template.layout_positions
    at = lambda *base: x[template.vertex_of_base[np.array(base)]].mean(0)  # noqa: E731
    mouth = at(UPPER_LIP_MIDDLE, LOWER_LIP_MIDDLE)
    out = np.ones(len(middle))
    face = region == REGIONS["face"]
    d = (middle - mouth) * [0.6, 1, 1]
    near_mouth = np.exp(-(d**2).sum(1) / (2 * 0.013**2))
    near_eye = np.zeros(len(middle))
    for side in "LR":
        ids = [b for b in (14598, 14634) if side == "L"] or [14670, 14706]
        iris = at(*ids)
        e = (middle - iris) * [0.75, 1, 1]
        near_eye = np.maximum(near_eye, np.exp(-(e**2).sum(1) / (2 * 0.011**2)))
        eye = (region == REGIONS["eyes"]) & ((middle[:, 0] > 0) == (side == "L"))
        depth = middle[:, 1] - iris[1]  # grows to the back of the eyeball
        out[eye] = np.where(depth[eye] < 0.0095, 1 + 0.8 * np.exp(-((depth[eye] / 0.002) ** 2)), 0.0)
    out[face] *= (0.8 + 1.7 * near_mouth + 1.2 * near_eye)[face]
    inner = region == REGIONS["mouth_interior"]
    back = middle[:, 1] - mouth[1]
    out[inner] *= np.clip(1.4 - back[inner] / 0.05, 0.05, 1.4)
    # Of the inside the front teeth are what is looked at.
    part = template.part[template.faces[:, 0]]
    teeth = inner & np.isin(part, (PARTS["upper_teeth"], PARTS["lower_teeth"]))
    out[teeth] *= 1 + 1.5 * np.exp(-((back[teeth].clip(0) / 0.02) ** 2))
    body = region == REGIONS["body"]
    legs = body & (middle[:, 2] < 0.0)
    out[legs] *= 0.6  # below the hip; the portrait rarely shows it
    return out


def _frames(
    template: Template, tri: np.ndarray, bary: np.ndarray, region: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Frame of each particle and the carriers of the three moving frames."""
    of = lambda value: np.einsum("nk,nk->n", value[tri], bary)  # noqa: E731
    frame = np.zeros(len(tri), np.uint8)
    frame[np.isin(region, [REGIONS[r] for r in ("face", "eyes", "mouth_interior")])] = FRAMES["head"]
    moved = np.zeros(len(template.vertices))
    moved[template.face_action_vertices] = np.linalg.norm(template.face_actions, axis=-1).max(0)
    skull = (region == REGIONS["body"]) & (of(template.bone_weight("head")) > RIGID) & (of(moved) < 5e-4)
    carriers = {"head": np.flatnonzero(skull)}
    for side, name in (("L", "left"), ("R", "right")):
        hand = region == REGIONS[f"hand_{name}"]
        fingers = of(
            template.bone_weight(*[b for b in _hand_bones(template, side) if b.startswith("finger")])
        )
        rigid = of(
            template.bone_weight(*[b for b in _hand_bones(template, side) if not b.startswith("finger")])
        )
        frame[hand & (fingers > FINGER)] = FRAMES[f"wrist_{name}"]
        carriers[f"wrist_{name}"] = np.flatnonzero(hand & (fingers <= FINGER) & (rigid > RIGID))
    return frame, carriers


def _spacing(positions: np.ndarray, region: np.ndarray) -> np.ndarray:
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

    out = np.zeros(len(positions), np.float32)
    for code in np.unique(region):
        rows = np.flatnonzero(region == code)
        distance, _ = cKDTree(positions[rows]).query(positions[rows], k=5)
        out[rows] = distance[:, 1:].mean(1)
    return out


@njit(cache=True, nogil=True)
def farthest_points(points: np.ndarray, importance: np.ndarray, count: int, fixed: int) -> np.ndarray:
    """Indices of `count` of the points (C, 3), the first `fixed` among them, by farthest-point sampling with distances
    scaled by importance (C,).

    Points that follow one another lie together: a block of them is passed over where a chosen point is too far off to matter.
    """
    n = points.shape[0]
    blocks = (n + BLOCK - 1) // BLOCK
    low, high = np.empty((blocks, 3)), np.empty((blocks, 3))
    for b in range(blocks):
        for c in range(3):
            low[b, c] = points[b * BLOCK : (b + 1) * BLOCK, c].min()
            high[b, c] = points[b * BLOCK : (b + 1) * BLOCK, c].max()
    best = np.full(n, 1e30)
    widest, top, first = np.full(blocks, 1e30), np.full(blocks, -1.0), np.zeros(blocks, np.int64)
    out = np.empty(count, np.int64)
    for k in range(count):
        chosen = k
        if k >= fixed:
            chosen = first[top.argmax()] if k else 0
        out[k] = chosen
        for b in range(blocks):
            gap = 0.0
            for c in range(3):
                off = max(low[b, c] - points[chosen, c], points[chosen, c] - high[b, c], 0.0)
                gap += off * off
            if gap * (1 - 1e-9) > widest[b]:
                continue
            widest[b], top[b] = 0.0, -1.0
            for i in range(b * BLOCK, min(n, (b + 1) * BLOCK)):
                x = points[i, 0] - points[chosen, 0]
                y = points[i, 1] - points[chosen, 1]
                z = points[i, 2] - points[chosen, 2]
                best[i] = min(best[i], x * x + y * y + z * z)
                widest[b] = max(widest[b], best[i])
                score = best[i] * importance[i] * importance[i]
                if score > top[b]:
                    top[b], first[b] = score, i
    return out
