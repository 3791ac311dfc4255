"""Pictures of an avatar at rest."""

from __future__ import annotations

import numpy as np
import torch

from avatar_core.geometry.camera import Camera
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.splats import rasterize_splats


def render_still(canonical: Canonical, camera: Camera) -> np.ndarray:
    """The avatar at rest, (H, W, 3) float in [0, 1]."""
    with torch.no_grad():
        image, _ = rasterize_splats(
            canonical.splats(),
            camera,
            background=torch.from_numpy(canonical.background.image(camera.width, camera.height)),
            eps2d=canonical.eps2d(camera),
        )
    return image.clamp(0, 1).numpy()
