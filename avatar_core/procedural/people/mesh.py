"""Assemble one person's renderable mesh: skin, eyes, mouth, lashes, clothes; materials and baked occlusion.

Legend: M mesh vertices; every one knows its template-space position, skin weights and, if it moves with the face, its row
in the action basis (52, K, 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from avatar_core.procedural.people import parts
from avatar_core.procedural.people.anny_export import BODY_VERTICES
from avatar_core.procedural.people.body_model import RestShape, load_body_model, skin_transforms
from avatar_core.procedural.people.garments import BOTTOMS, TOPS, Piece, cut_bottom, cut_shoe, cut_top, sew
from avatar_core.procedural.people.noise import linear_rgb
from avatar_core.procedural.people.occlusion import ambient_occlusion
from avatar_core.procedural.people.poses import relaxed_pose
from avatar_core.procedural.people.raster import skin_points, vertex_normals
from avatar_core.procedural.people.regions import regions

SKIN, EYE, TEETH, TONGUE, LASH, CLOTH, HAIR, SHOE = range(8)
PATTERNS = ("plain", "stripes", "checks", "blobs", "placket", "denim", "vertical", "dots", "ribs", "band")
LEG_EASE = {"trousers": (0.10, 0.088), "jeans": (0.09, 0.068), "shorts": (0.11, 0.13), "leggings": None}
SLEEVE_EASE = {"sweater": 0.060, "cardigan": 0.062, "jacket": 0.062, "blouse": 0.060}
CLOSURES = {
    "shirt": (1, 9.0),
    "polo": (1, 0.16),
    "blouse": (1, 9.0),
    "cardigan": (1, 9.0),
    "jacket": (1, 9.0),
}
MAX_WEIGHTS = 12


@dataclass(frozen=True)
class Mesh:
    """Rest-pose mesh. `merge` maps vertices to welded vertices so that UV seams do not break normals."""

    points: np.ndarray  # (M, 3)
    triangles: np.ndarray  # (F, 3)
    material: np.ndarray  # (F,) row of `table`
    table: np.ndarray  # (n_materials, 16); the last row is hair
    uv: np.ndarray  # (M, 2)
    template: np.ndarray  # (M, 3)
    color: np.ndarray  # (M, 3) linear
    cut: np.ndarray  # (M,)
    ao: np.ndarray  # (M,)
    weights_index: np.ndarray  # (M, 12)
    weights: np.ndarray  # (M, 12)
    action_vertices: np.ndarray  # (K,)
    actions: np.ndarray  # (52, K, 3)
    merge: np.ndarray  # (M,)
    merged_triangles: np.ndarray  # (F, 3)

    def normals(self, points: np.ndarray, out: np.ndarray) -> None:
        """Unit vertex normals of posed points (M, 3), written to out."""
        n = int(self.merge.max()) + 1
        welded, unit = np.empty((n, 3), np.float32), np.empty((n, 3), np.float32)
        welded[self.merge] = points
        vertex_normals(welded, self.merged_triangles, unit)
        out[:] = unit[self.merge]


class _Builder:
    """Collects mesh chunks; arrays are concatenated once at the end."""

    def __init__(self, rest: RestShape) -> None:
        self.rest, self.model = rest, load_body_model()
        self.rows: list[list[float]] = []
        self.chunks: dict[str, list[np.ndarray]] = {}
        self.count = 0

    def add_material(
        self,
        kind: int,
        spec: float,
        gloss: float,
        wrap: float,
        second: Sequence[float] | np.ndarray = (0, 0, 0),
        pattern: float = 0.0,
        scale: float = 0.0,
        fold: float = 0.0,
        folds: float = 0.0,
        bias: float = 0.006,
        fresnel: float = 0.0,
        closure: tuple[float, float, float] = (0, 0, 0),
    ) -> int:
        row = [kind, spec, gloss, wrap, *second, pattern, scale, fold, folds, bias, fresnel, *closure]
        self.rows.append([float(v) for v in row] + [0.0] * (16 - len(row)))
        return len(self.rows) - 1

    def add(
        self,
        points: np.ndarray,
        triangles: np.ndarray,
        material: int,
        template: np.ndarray,
        color: np.ndarray,
        cut: np.ndarray,
        index: np.ndarray,
        weights: np.ndarray,
        uv: np.ndarray | None = None,
        source: np.ndarray | None = None,
        moves: np.ndarray | None = None,
    ) -> None:
        """source: base.obj vertex that welds and drives face motion (-1 none); moves: face motion only."""
        n = len(points)
        pad = MAX_WEIGHTS - index.shape[1]
        chunk = {
            "points": points,
            "triangles": np.asarray(triangles) + self.count,
            "material": np.full(len(triangles), material),
            "template": template,
            "color": color,
            "cut": cut,
            "weights_index": np.pad(index, ((0, 0), (0, pad))),
            "weights": np.pad(weights, ((0, 0), (0, pad))),
            "uv": np.zeros((n, 2)) if uv is None else uv,
            "source": np.full(n, -1) if source is None else source,
            "moves": (np.full(n, -1) if source is None else source) if moves is None else moves,
        }
        for name, value in chunk.items():
            self.chunks.setdefault(name, []).append(np.asarray(value))
        self.count += n

    def add_part(self, part: parts.Part, material: int) -> None:
        n = len(part.vertices)
        if part.bone < 0:
            index, weights, source = (
                self.model.weights_index[part.source],
                self.model.weights[part.source],
                part.source,
            )
        else:
            index, weights, source = np.full((n, 1), part.bone), np.ones((n, 1)), None
        self.add(part.vertices, part.triangles, material, part.template, part.color, part.cut, index, weights,
                 source=source, moves=part.source)  # fmt: skip

    def add_piece(self, piece: Piece, material: int, color: ArrayLike) -> None:
        n = len(piece.vertices)
        tint = np.repeat(linear_rgb(color)[None], n, 0)
        self.add(piece.vertices, piece.triangles, material, piece.template, tint, piece.cut, piece.weights_index,
                 piece.weights)  # fmt: skip

    def take(self, name: str, dtype: DTypeLike) -> np.ndarray:
        return np.ascontiguousarray(np.concatenate(self.chunks[name]).astype(dtype))


def _dress(b: _Builder, look: Mapping) -> np.ndarray:
    """Add all clothes; returns the cover scalar of the body vertices (BODY_VERTICES,): negative under cloth."""
    model, r, rest = b.model, regions(), b.rest
    points, arm = model.neutral[:BODY_VERTICES], r.arm[:BODY_VERTICES]
    cover = np.full(BODY_VERTICES, 1.0)
    skirt = "skirt" in look["bottom"]["kind"]
    hem_lift = 0.085 if skirt else 0.0  # tucked in

    def cloth(g: Mapping) -> int:
        pattern = PATTERNS.index(g["pattern"])
        closure, low = CLOSURES.get(g["kind"], (0, 0.0))
        low = r.z["neck"] - low if closure else 0.0
        return b.add_material(CLOTH, g.get("spec", 0.25), g.get("gloss", 12), 0.18, linear_rgb(g["color2"]), pattern,
                              g["scale"], g["fold"], 16, 0.006, 0.5, (closure, low, r.neck_y - 0.03))  # fmt: skip

    top = look["top"]
    assert top["kind"] in TOPS

    def top_cut(p: np.ndarray, a: np.ndarray) -> np.ndarray:
        return cut_top(p, a, top["kind"], hem_lift)

    tuck = (r.z["hip"] + 0.03, r.z["hip"] + 0.13) if skirt else None
    sleeve = SLEEVE_EASE.get(top["kind"], 0.058)
    piece = sew("tights", top_cut, rest, top["offset"], top["smooth"], sleeve=sleeve, tuck=tuck)
    b.add_piece(piece, cloth(top), top["color"])
    cover = np.minimum(cover, top_cut(points, arm))
    bottom = look["bottom"]
    assert bottom["kind"] in BOTTOMS

    def bottom_cut(p: np.ndarray, a: np.ndarray) -> np.ndarray:
        return cut_bottom(p, a, bottom["kind"])

    if skirt:
        b.add_piece(sew("skirt", bottom_cut, rest, 0.006, 3), cloth(bottom), bottom["color"])
        waist = (points[:, 2] > r.z["hip"] - 0.05) & (points[:, 2] < r.z["hip"] + 0.06) & (arm < -0.9)
        cover = np.minimum(cover, np.where(waist, -1, 1))
    else:
        ease = LEG_EASE[bottom["kind"]]
        piece = sew("tights", bottom_cut, rest, bottom["offset"], bottom["smooth"], leg=ease)
        b.add_piece(piece, cloth(bottom), bottom["color"])
        cover = np.minimum(cover, bottom_cut(points, arm))
    over = look.get("over")
    if over:

        def over_cut(p: np.ndarray, a: np.ndarray) -> np.ndarray:
            return cut_top(p, a, over["kind"])

        piece = sew(
            "tights", over_cut, rest, over["offset"], over["smooth"], sleeve=SLEEVE_EASE[over["kind"]]
        )
        b.add_piece(piece, cloth(over), over["color"])
    shoes = look["shoes"]

    def shoe_cut(p: np.ndarray, a: np.ndarray) -> np.ndarray:
        return cut_shoe(p, a, shoes["kind"])

    leather = b.add_material(SHOE, 0.8, 30, 0.15, linear_rgb(shoes["sole"]), 0, r.z["floor"] + 0.016, bias=0.006,
                             fresnel=0.5)  # fmt: skip
    b.add_piece(sew("tights", shoe_cut, rest, 0.006, 3), leather, shoes["color"])
    return np.minimum(cover, shoe_cut(points, arm))


def build_mesh(look: Mapping, rest: RestShape) -> Mesh:
    """The dressed body of one person, occlusion baked in the relaxed pose with a closed mouth."""
    b = _Builder(rest)
    model = b.model
    skin = b.add_material(SKIN, 1.0, look["gloss"], 0.42, bias=0.004, fresnel=0.6)
    eye = b.add_material(EYE, 2.2, 180, 0.15, linear_rgb(look["eye_color"]), 0.47, bias=0.006, fresnel=0.2)
    tooth = b.add_material(TEETH, 1.5, 60, 0.3, bias=0.004)
    tongue = b.add_material(TONGUE, 1.2, 40, 0.3, bias=0.004)
    lash = b.add_material(LASH, 0.1, 10, 0.2, bias=0.004)
    n = len(model.skin_vertex)
    v = model.skin_vertex
    b.add(rest.vertices[v], model.skin_faces, skin, model.neutral[v], np.zeros((n, 3)), np.full(n, -1.0),
          model.weights_index[v], model.weights[v], uv=model.skin_uv, source=v)  # fmt: skip
    for part in parts.eyes(rest):
        b.add_part(part, eye)
    for part in parts.teeth(rest):
        b.add_part(part, tooth)
    b.add_part(parts.tongue(rest), tongue)
    for part in parts.lashes(rest, linear_rgb(look["hair_color"]), look["lash"]):
        b.add_part(part, lash)
    cover = _dress(b, look)
    hair = b.add_material(HAIR, look["shine"], 0, 0, bias=0.010)
    assert hair == len(b.rows) - 1

    points, triangles = b.take("points", np.float32), b.take("triangles", np.int32)
    material, cut = b.take("material", np.int32), b.take("cut", np.float32)
    covered = cover[np.minimum(model.skin_vertex, BODY_VERTICES - 1)] < -0.018
    hidden = np.asarray(covered[model.skin_faces].all(1))
    keep = np.ones(len(triangles), bool)
    keep[: len(hidden)] = ~hidden
    keep &= ~(cut[triangles] > 0).all(1)
    triangles, material = np.ascontiguousarray(triangles[keep]), np.ascontiguousarray(material[keep])

    source, moves = b.take("source", np.int64), b.take("moves", np.int64)
    welded = np.where(source >= 0, source, len(model.neutral) + np.arange(len(source)))
    merge = np.unique(welded, return_inverse=True)[1].astype(np.int64)
    row_of = np.full(len(model.neutral), -1)
    row_of[model.action_vertices] = np.arange(len(model.action_vertices))
    row = np.where(moves >= 0, row_of[np.maximum(moves, 0)], -1)
    moving = np.nonzero(row >= 0)[0]
    index, weights = b.take("weights_index", np.int64), b.take("weights", np.float32)
    mesh = Mesh(
        points=points,
        triangles=triangles,
        material=material,
        table=np.array(b.rows, np.float32),
        uv=b.take("uv", np.float32),
        template=b.take("template", np.float32),
        color=b.take("color", np.float32),
        cut=cut,
        ao=np.ones(len(points), np.float32),
        weights_index=index,
        weights=weights,
        action_vertices=moving,
        actions=np.ascontiguousarray(model.actions[:, row[moving]]),
        merge=merge,
        merged_triangles=merge[triangles].astype(np.int32),
    )
    mesh.ao[:] = _bake(mesh, rest, lash, eye)
    return mesh


def _bake(mesh: Mesh, rest: RestShape, lash: int, eye: int) -> np.ndarray:
    """Occlusion of every vertex in the relaxed pose: head finely, the rest coarsely."""
    model = load_body_model()
    points, unit = np.empty_like(mesh.points), np.empty_like(mesh.points)
    transforms = skin_transforms(rest.heads, relaxed_pose()).astype(np.float32)
    skin_points(mesh.points, mesh.weights_index, mesh.weights, transforms, points)
    mesh.normals(points, unit)
    used = np.zeros(len(points), bool)
    used[mesh.triangles.ravel()] = True
    opaque = np.ascontiguousarray(mesh.triangles[mesh.material != lash])
    head = model.bone_names.index("head")
    on_head = (mesh.weights * (mesh.weights_index == head)).sum(1) > 0.5
    span = points[used & on_head]
    centre, radius = (span.min(0) + span.max(0)) / 2, float((span.max(0) - span.min(0)).max()) * 0.62
    near = used & (np.linalg.norm(points - centre, axis=1) < radius * 0.98)
    fine = ambient_occlusion(
        points, unit, opaque, mesh.cut, centre=centre, radius=radius, chosen=near, directions=40
    )
    low, high = points[used].min(0), points[used].max(0)
    coarse = ambient_occlusion(
        points, unit, opaque, mesh.cut, centre=(low + high) / 2, radius=float((high - low).max()) * 0.56,
        chosen=used & ~near, directions=24,
    )  # fmt: skip
    openness = np.clip((np.where(near, fine, coarse) - 0.12) / 0.80, 0.03, 1) ** 0.9
    is_eye = np.zeros(len(points), bool)
    is_eye[mesh.triangles[mesh.material == eye].ravel()] = True
    return np.where(is_eye, np.clip(openness * 1.2 + 0.35, 0, 1), openness).astype(np.float32)
