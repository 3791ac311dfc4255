"""Pictures of an avatar: moved by latents, chunk by chunk; the camera that they are seen through.

T frames, D latents, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np
import torch

from avatar_core.geometry.camera import Camera
from avatar_core.io.images import to_uint8
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.deformation import LocalFrames
from avatar_core.particles.layout import ParticleLayout
from avatar_core.particles.splats import rasterize_splats
from avatar_core.particles.stance import StanceFrames
from avatar_core.speak.student import Student

CHUNK = 16
ALPHA_STEP = 1 / 255
Gestures = Literal["auto", "full", "off"]


def render_motion(
    student: Student,
    canonical: Canonical,
    layout: ParticleLayout,
    x: torch.Tensor,
    camera: Camera,
    gestures: Gestures,
    chunk: int = CHUNK,
    *,
    transparent: bool = False,
) -> Iterator[np.ndarray]:
    """Latents x (T, D) -> uint8 frames, yielded as (<=chunk, H, W, 3): decode, compose and rasterize a chunk at a time.

    x is on the student's device, where all this is done.
    transparent: (<=chunk, H, W, 4), the person alone, colours not multiplied by alpha.
    """
    frames = moving_frames(canonical, layout, gestures, x.device)
    background = torch.from_numpy(canonical.background.image(camera.width, camera.height)).to(x.device)
    eps2d = canonical.eps2d(camera)
    with torch.no_grad():
        for start in range(0, len(x), chunk):
            deformation = student.codec.decode(x[start : start + chunk], float(canonical.stature))
            splats = frames.compose(deformation)
            if transparent:
                images, alphas = rasterize_splats(splats, camera, eps2d=eps2d)
                yield np.stack(
                    [
                        _straight(*pair)
                        for pair in zip(images.cpu().numpy(), alphas.cpu().numpy(), strict=True)
                    ]
                )
                continue
            images, _ = rasterize_splats(splats, camera, background=background, eps2d=eps2d)
            yield (images.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()


def _straight(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Picture over black (H,W,3), alpha (H,W,1) -> (H,W,4) uint8. Where nothing shows the colours round about go on: video keeps
    colour at half the resolution, and black would seep in."""
    around = cv2.blur(image, (9, 9)) / np.maximum(cv2.blur(alpha, (9, 9))[..., None], 1e-4)
    color = np.where(alpha > ALPHA_STEP, image / np.maximum(alpha, ALPHA_STEP), around)
    return to_uint8(np.concatenate([color, alpha], -1))


def moving_frames(
    canonical: Canonical, layout: ParticleLayout, gestures: Gestures, device: torch.device | str = "cpu"
) -> LocalFrames | StanceFrames:
    """What moves the avatar. auto: from the portrait's stance, arms as far as they may; off: arms still there; full: from the
    relaxed stance, everything as learnt."""
    if gestures == "full":
        return LocalFrames(canonical, layout, device)
    freedom = canonical.freedom if gestures == "auto" else np.zeros(2, np.float32)
    return StanceFrames(canonical, layout, freedom, device)


def output_camera(camera: Camera, longest: int) -> Camera:
    """The portrait's camera, scaled so that its longest side is `longest` px, both sides even (H.264's colour grid)."""
    scale = longest / max(camera.width, camera.height)
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (camera.width, camera.height))
    K = np.array(camera.K, np.float32)
    K[0] *= width / camera.width
    K[1] *= height / camera.height
    return replace(camera, K=K, width=width, height=height)
