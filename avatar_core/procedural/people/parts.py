"""Eyes, teeth, tongue and lashes: small meshes tied to the body model's helper groups.

The helper teeth are crude zigzags, so two dental arches are modelled here and tied affinely to them; each arch vertex takes
its facial motion from the nearest helper vertex.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import KDTree

from avatar_core.procedural.people.body_model import RestShape, load_body_model
from avatar_core.procedural.people.garments import quads_to_triangles
from avatar_core.procedural.people.noise import linear_rgb, smoothstep
from avatar_core.procedural.people.regions import regions


@dataclass(frozen=True)
class Part:
    """vertices (n, 3) at rest; template (n, 3) (for eyes: unit direction from the eye centre, -Y is forward);
    source (n,) base.obj vertex that drives skinning and face actions; rigid bone index or -1 (= skin like source)."""

    vertices: np.ndarray
    triangles: np.ndarray
    template: np.ndarray
    cut: np.ndarray
    color: np.ndarray
    source: np.ndarray
    bone: int = -1


def _helper(
    name: str,
    rest: RestShape,
    color: ArrayLike,
    template: np.ndarray | None = None,
    cut: np.ndarray | None = None,
) -> Part:
    model = load_body_model()
    quads = model.quads[name]
    ids, inverse = np.unique(quads, return_inverse=True)
    n = len(ids)
    return Part(
        vertices=rest.vertices[ids],
        triangles=quads_to_triangles(inverse.reshape(quads.shape)),
        template=model.neutral[ids] if template is None else template,
        cut=np.full(n, -1.0) if cut is None else cut,
        color=np.repeat(np.asarray(color, np.float32)[None], n, 0),
        source=ids,
    )


def eyes(rest: RestShape) -> list[Part]:
    """Left and right eyeball."""
    model = load_body_model()
    out = []
    for side in "lr":
        name = f"helper-{side}-eye"
        points = model.neutral[np.unique(model.quads[name])]
        direction = points - (points.max(0) + points.min(0)) / 2
        direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        out.append(_helper(name, rest, (0.8, 0.8, 0.8), template=direction))
    return out


def tongue(rest: RestShape) -> Part:
    return _helper("helper-tongue", rest, linear_rgb((176, 90, 88)))


def lashes(rest: RestShape, color: np.ndarray, length: float) -> list[Part]:
    """Lash cards trimmed to the inner few millimetres. length: 1 = average."""
    model, r = load_body_model(), regions()
    out = []
    for side in "lr":
        for row, reach in (("1", 0.0035), ("2", 0.0058)):
            name = f"helper-{side}-eyelashes-{row}"
            distance = np.linalg.norm(model.neutral[np.unique(model.quads[name])] - r.eye[side], axis=1)
            cut = distance - (distance.min() + reach * length)
            out.append(_helper(name, rest, color * 0.25 + 0.002, cut=cut))
    return out


def teeth(rest: RestShape) -> list[Part]:
    """Upper and lower arch: parabola, 7.8 mm wide teeth, gums."""
    model = load_body_model()
    columns, rows = 97, 6
    head = model.bone_names.index("head")
    along = np.linspace(-1, 1, columns)
    down = np.linspace(0, 1, rows)[:, None]  # 0 at the gum, 1 at the biting edge
    x = 0.031 * along
    scallop = np.abs(np.sin(x * np.pi / 0.0078))
    out = []
    for name in ("upper", "lower"):
        upper = name == "upper"
        ids = np.unique(model.quads[f"helper-{name}-teeth"])
        lift, *_ = np.linalg.lstsq(
            np.c_[model.neutral[ids], np.ones(len(ids))], rest.vertices[ids], rcond=None
        )
        y = -0.1422 + (0.0 if upper else 0.0022) + 40 * x**2
        gum, edge = (0.6425, 0.6262) if upper else (0.6130, 0.6262)
        z = gum + (edge - gum) * down + 0.0009 * (1 - scallop[None]) ** 2 * down * (1 if upper else -1)
        z = z + 0.0035 * np.abs(along[None]) ** 2 * (1 if upper else -0.3)
        y = np.repeat(y[None], rows, 0) + 0.0012 * (1 - scallop[None]) + 0.0019 * (down - 0.5) ** 2
        template = np.stack([np.repeat(x[None], rows, 0), y, z], -1).reshape(-1, 3)
        first = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)[None]).ravel()
        quads = np.stack([first, first + 1, first + columns + 1, first + columns], 1)
        enamel = smoothstep(0.30, 0.42, np.repeat(down[:, 0], columns))[:, None]
        out.append(
            Part(
                vertices=(np.c_[template, np.ones(len(template))] @ lift).astype(np.float32),
                triangles=quads_to_triangles(quads),
                template=template,
                cut=np.full(len(template), -1.0),
                color=linear_rgb((226, 219, 206)) * enamel + linear_rgb((170, 92, 90)) * (1 - enamel),
                source=ids[KDTree(model.neutral[ids], leafsize=16).query(template)[1]],
                bone=head,
            )
        )
    return out
