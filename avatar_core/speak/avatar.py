"""From one portrait to an avatar that a student can drive, and that avatar as a folder to come back to.

The folder: `avatar.safetensors` (+ .json), `avatar.ply` for splat viewers, `camera.json` (the portrait's view) and `preview.png`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from avatar_core.errors import UserError
from avatar_core.geometry.camera import Camera
from avatar_core.io.atomic import atomic_directory, check_replaceable, write_json
from avatar_core.io.images import contact_sheet
from avatar_core.particles.canonical import Canonical, load_canonical, save_canonical, write_ply
from avatar_core.particles.layout import ParticleLayout, make_layout
from avatar_core.perception import load_critics
from avatar_core.personalise.personalise import PersonaliseConfig, personalise
from avatar_core.personalise.refine import RefineConfig

AVATAR_FILES = r"avatar\.(safetensors|json|ply)|camera\.json|preview\.png"
COARSE_SHARE = 0.38  # of the steps of a portrait: at half resolution, before there is detail


def make_avatar(image: np.ndarray, particles: Mapping[str, int]) -> tuple[ParticleLayout, Canonical, Camera]:
    """Portrait (H, W, 3) in [0, 1] -> the shared layout, the person in it, and the portrait's camera.

    `particles` are the budgets by region and the layout's seed, as the student's checkpoint holds them. Raises UserError when there
    is no person to be found.
    """
    config = PersonaliseConfig(
        budgets={k: int(v) for k, v in particles.items() if k not in ("seed", "shell")},
        shells=int(particles.get("shell", 0)),
        layout_seed=int(particles.get("seed", 0)),
    )
    canonical, camera, _ = personalise(image, load_critics(), config=config)
    return make_layout(None, config.budgets, config.layout_seed), canonical, camera


def personalise_config(particles: Mapping[str, int], steps: int = 260, threads: int = 2) -> PersonaliseConfig:
    """Settings of the personalisation for these budgets (`shell` and `seed` among them); steps: of both phases."""
    coarse = max(1, round(COARSE_SHARE * steps))
    budgets = {k: int(v) for k, v in particles.items() if k not in ("shell", "seed")}
    return PersonaliseConfig(
        budgets=budgets,
        shells=int(particles.get("shell", 0)),
        layout_seed=int(particles.get("seed", 0)),
        refine=RefineConfig(steps=coarse, sharp_steps=steps - coarse, threads=threads),
    )


def check_avatar_folder(folder: str | os.PathLike) -> None:
    """Raises UserError unless `save_avatar` may write `folder`: absent, empty, or an avatar of ours."""
    check_replaceable(folder, AVATAR_FILES, "one made by `avatar personalise`")


def save_avatar(
    folder: str | os.PathLike,
    canonical: Canonical,
    camera: Camera,
    particles: Mapping[str, int],
    pictures: list[np.ndarray],
) -> None:
    """Write the folder whole, in place of an earlier avatar. `pictures`: the portrait and the avatar at rest, for the preview.

    Raises UserError when `folder` holds anything but an avatar.
    """
    check_avatar_folder(folder)
    with atomic_directory(folder) as new:
        save_canonical(new / "avatar.safetensors", canonical)
        write_ply(new / "avatar.ply", canonical)
        view = {
            "viewmat": np.asarray(camera.viewmat, float).tolist(),
            "K": np.asarray(camera.K, float).tolist(),
            "width": int(camera.width),
            "height": int(camera.height),
        }
        write_json(new / "camera.json", {"camera": view, "particles": dict(particles)})
        contact_sheet(new / "preview.png", pictures, ["portrait", "avatar"], cell=512)


def load_avatar(folder: str | os.PathLike) -> tuple[ParticleLayout, Canonical, Camera]:
    """Read what `save_avatar` wrote. Raises UserError naming the file that is missing or damaged."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder made by `avatar personalise`, found none")
    canonical = load_canonical(folder / "avatar.safetensors")
    try:
        about = json.loads((folder / "camera.json").read_text())
        view, particles = about["camera"], {str(k): int(v) for k, v in about["particles"].items()}
        camera = Camera(
            np.asarray(view["viewmat"], np.float32).reshape(4, 4),
            np.asarray(view["K"], np.float32).reshape(3, 3),
            int(view["width"]),
            int(view["height"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'camera.json'}: expected the avatar's camera, found {error}") from None
    budgets = {k: v for k, v in particles.items() if k not in ("seed", "shell")}
    return make_layout(None, budgets, particles.get("seed", 0)), canonical, camera
