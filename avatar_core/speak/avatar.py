"""From one portrait to an avatar that a student can drive, and that avatar as a folder to come back to.

The folder: `avatar.safetensors` (+ .json), `avatar.ply` for splat viewers, `camera.json` (the portrait's view) and `preview.png`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from avatar_core.config import parse
from avatar_core.device import CPU, Compute
from avatar_core.errors import UserError
from avatar_core.geometry.camera import Camera
from avatar_core.io.atomic import atomic_directory, check_replaceable, write_json
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.canonical import Canonical, load_canonical, save_canonical, write_ply
from avatar_core.particles.layout import ParticleLayout, make_layout
from avatar_core.particles.stance import to_stance
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.personalise.config import PersonaliseConfig
from avatar_core.personalise.personalise import Portrait, PortraitFit, personalise_all
from avatar_core.speak.preview import write_preview
from avatar_core.speak.still import render_still

AVATAR_FILES = r"avatar\.(safetensors|json|ply)|camera\.json|preview\.png"


def make_avatars(
    portraits: Sequence[Portrait],
    config: PersonaliseConfig,
    perception: PerceptionConfig,
    compute: Compute = CPU,
) -> list[tuple[ParticleLayout, Canonical, Camera, PortraitFit]]:
    """Portraits -> the shared layout, the person in each, the portrait's camera, what was found and how it fits.

    config, perception: as the student's file holds them, so that this is the avatar that the fit makes. Raises UserError when there
    is no person to be found in one.
    """
    made = personalise_all(portraits, perception, config=config, compute=compute)
    layout = make_layout(config.particles)
    return [(layout, *of) for of in made]


def check_avatar_folder(folder: str | os.PathLike) -> None:
    """Raises UserError unless `save_avatar` may write `folder`: absent, empty, or an avatar of ours."""
    check_replaceable(folder, AVATAR_FILES, "one made by `avatar personalise`")


def save_avatar(
    folder: str | os.PathLike,
    canonical: Canonical,
    camera: Camera,
    particles: ParticleBudgets,
    fit: PortraitFit,
) -> None:
    """Write the folder whole, in place of an earlier avatar.

    Raises UserError when `folder` holds anything but an avatar.
    """
    check_avatar_folder(folder)
    resting = to_stance(canonical, make_layout(particles))
    with atomic_directory(folder) as new:
        save_canonical(new / "avatar.safetensors", canonical)
        write_ply(new / "avatar.ply", resting)
        view = {
            "viewmat": np.asarray(camera.viewmat, float).tolist(),
            "K": np.asarray(camera.K, float).tolist(),
            "width": int(camera.width),
            "height": int(camera.height),
        }
        write_json(new / "camera.json", {"camera": view, "particles": asdict(particles)})
        write_preview(new / "preview.png", fit, render_still(resting, camera))


def load_avatar(folder: str | os.PathLike) -> tuple[ParticleLayout, Canonical, Camera]:
    """Read what `save_avatar` wrote. Raises UserError naming the file that is missing or damaged."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder made by `avatar personalise`, found none")
    canonical = load_canonical(folder / "avatar.safetensors")
    try:
        about = json.loads((folder / "camera.json").read_text())
        view = about["camera"]
        particles = parse(ParticleBudgets, about["particles"], str(folder / "camera.json"), "particles")
        camera = Camera(
            np.asarray(view["viewmat"], np.float32).reshape(4, 4),
            np.asarray(view["K"], np.float32).reshape(3, 3),
            int(view["width"]),
            int(view["height"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'camera.json'}: expected the avatar's camera, found {error}") from None
    return make_layout(particles), canonical, camera
