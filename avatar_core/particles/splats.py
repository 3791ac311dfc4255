"""Splats: what the renderer draws, and the one call that draws them through a camera.

Optimisers and files hold log scales and opacity logits; splats hold what these stand for, so the two cannot be confused.

Legend: ... frames, N splats, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from avatar_core.geometry.camera import Camera
from avatar_core.render import rasterize

PORTRAIT_BLUR = 0.3  # px^2, the renderer's default eps2d, which portraits are fitted with


@dataclass(frozen=True)
class Splats:
    """Gaussians in the world. Leading dims broadcast: what does not change over the frames has none."""

    means: Tensor  # (..., N, 3) m
    quats: Tensor  # (..., N, 4) wxyz
    scales: Tensor  # (..., N, 3) standard deviations, m
    opacities: Tensor  # (..., N) in 0..1
    colors: Tensor  # (..., N, 3) sRGB

    @staticmethod
    def activated(
        means: np.ndarray | Tensor,
        quats: np.ndarray | Tensor,
        log_scales: np.ndarray | Tensor,
        logit_opacities: np.ndarray | Tensor,
        colors: np.ndarray | Tensor,
    ) -> Splats:
        """From log scales and opacity logits, arrays or tensors."""
        return Splats(
            float_tensor(means),
            float_tensor(quats),
            float_tensor(log_scales).exp(),
            float_tensor(logit_opacities).sigmoid(),
            float_tensor(colors),
        )

    def to(self, device: torch.device | str) -> Splats:
        return Splats(*(getattr(self, f.name).to(device) for f in fields(self)))

    def detach(self) -> Splats:
        return Splats(*(getattr(self, f.name).detach() for f in fields(self)))


def float_tensor(value: np.ndarray | Tensor) -> Tensor:
    """As a float32 tensor."""
    if isinstance(value, Tensor):
        return value.to(torch.float32)
    return torch.from_numpy(np.ascontiguousarray(value)).to(torch.float32)


def rasterize_splats(
    splats: Splats,
    camera: Camera,
    *,
    background: Tensor | None = None,
    eps2d: float = PORTRAIT_BLUR,
    return_depth: bool = False,
    threads: int | None = None,
) -> tuple[Tensor, ...]:
    """Draw splats: colours (..., H, W, 3), alphas (..., H, W, 1) and, if asked for, depths (..., H, W, 1); differentiable.

    camera: its K may be (..., 3, 3), one for each frame. background: None (black), (3,) or (H, W, 3). eps2d: px^2, see
    `Canonical.eps2d`. More about each, and what is raised for bad values: `render.rasterize`.
    """
    viewmat, K = camera.tensors(splats.means.device)
    return rasterize(
        splats.means,
        splats.quats,
        splats.scales,
        splats.opacities,
        splats.colors,
        viewmat.float(),
        K.float(),
        camera.width,
        camera.height,
        background=background,
        eps2d=eps2d,
        return_depth=return_depth,
        threads=threads,
    )
