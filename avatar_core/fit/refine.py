"""Photometric refinement of a portrait's particles through the renderer: whole picture plus a closer look at the face.

Loss: L1 + (1 - SSIM) on both views, L1 of alpha against the mask, and pulls toward where the particles started. Particles
move a few millimetres at most, so that the template still knows what they are.

Legend: N particles (base and shells), H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avatar_core.errors import UserError
from avatar_core.fit.appearance import Splats
from avatar_core.geometry.camera import Camera
from avatar_core.render import rasterize
from avatar_core.template.layout import REGIONS


@dataclass(frozen=True)
class RefineConfig:
    steps: int = 250
    reach_m: float = 0.004  # how far a base particle may move
    shell_reach_m: float = 0.008
    ssim: float = 0.15
    face: float = 0.6
    mask: float = 0.1
    threads: int = 2


@dataclass(frozen=True)
class View:
    """A camera, what it should see (H,W,3), what is behind (H,W,3), and the mask (H,W), as tensors."""

    camera: Camera
    target: Tensor
    background: Tensor
    mask: Tensor

    @staticmethod
    def of(camera: Camera, image: np.ndarray, background: np.ndarray, mask: np.ndarray) -> View:
        tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32))  # noqa: E731
        return View(camera, tensor(image), tensor(background), tensor(mask))

    def crop(self, x0: int, y0: int, side: int, pixels: int) -> View:
        """The square window of this view at another resolution."""
        camera = self.camera.crop(x0, y0, side, side, pixels / side)
        method = cv2.INTER_AREA if pixels < side else cv2.INTER_LINEAR
        cut = [
            cv2.resize(a.numpy()[y0 : y0 + side, x0 : x0 + side], (pixels, pixels), interpolation=method)
            for a in (self.target, self.background, self.mask)
        ]
        return View.of(replace(camera, width=pixels, height=pixels), *cut)


def render(view: View, parts: tuple[Tensor, ...], threads: int) -> tuple[Tensor, Tensor]:
    """means, quats, scales, opacities, colors -> picture (H,W,3), alpha (H,W)."""
    image, alpha = rasterize(
        *parts,
        torch.from_numpy(view.camera.viewmat),
        torch.from_numpy(view.camera.K),
        view.camera.width,
        view.camera.height,
        background=view.background,
        threads=threads,
    )
    return image, alpha[..., 0]


def refine(
    splats: Splats,
    view: View,
    face_view: View | None,
    config: RefineConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Splats:
    """Adjust places, turns, sizes, opacities and colours so that the views come out as their targets."""
    tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32))  # noqa: E731
    start = tensor(splats.means)
    quats, log_scales, logits, colors = (tensor(a).requires_grad_() for a in (splats.quats, splats.log_scales, splats.logit_opacities, splats.colors))  # fmt: skip
    offset = torch.zeros_like(start, requires_grad=True)
    size0, color0 = log_scales.detach().clone(), colors.detach().clone()
    reach = torch.full((len(start), 1), config.reach_m)
    reach[splats.n_base :] = config.shell_reach_m
    fixed = tensor(splats.region == REGIONS["mouth_interior"]).bool()
    fixed[splats.n_base :] = False
    free = (~fixed).float()
    groups = [(offset, 0.1), (quats, 3e-3), (log_scales, 1.5e-2), (logits, 4e-2), (colors, 1.5e-2)]
    optimizer = torch.optim.Adam([{"params": [p], "lr": lr} for p, lr in groups], betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps, eta_min=0)

    def current() -> tuple[Tensor, ...]:
        return (
            start + reach * torch.tanh(offset),
            F.normalize(quats, dim=-1),
            log_scales.exp(),
            logits.sigmoid(),
            colors,
        )

    for step in range(config.steps):
        parts = current()
        image, alpha = render(view, parts, config.threads)
        loss = photometric(image, view.target, config.ssim) + config.mask * (alpha - view.mask).abs().mean()
        if face_view is not None:
            close, _ = render(face_view, parts, config.threads)
            loss = loss + config.face * photometric(close, face_view.target, config.ssim)
        loss = loss + 0.01 * (colors - color0).square().mean() + 0.002 * (log_scales - size0).square().mean()
        loss = loss + 2e-4 * offset.square().mean()
        optimizer.zero_grad()
        loss.backward()
        if not torch.isfinite(loss):
            raise UserError("portrait: refinement diverged; try another picture of this person")
        for p, _ in groups:
            assert p.grad is not None
            p.grad.mul_(free.view(-1, *[1] * (p.dim() - 1)))
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            log_scales.clamp_(np.log(3e-4), np.log(0.018))
            # Thin stays thinner than wide: needles and shards show when the head turns.
            log_scales.copy_(torch.maximum(log_scales, log_scales.amax(-1, keepdim=True) - 2.3))
            colors.clamp_(0, 1)
        if progress:
            progress(step + 1, config.steps)
    with torch.no_grad():
        means, turned, _, _, _ = current()
    return replace(
        splats,
        means=means.numpy(),
        quats=turned.numpy(),
        log_scales=log_scales.detach().numpy(),
        logit_opacities=logits.detach().clamp(-6, 6).numpy(),
        colors=colors.detach().numpy(),
    )


def photometric(image: Tensor, target: Tensor, ssim: float) -> Tensor:
    """L1 + ssim (1 - SSIM) of pictures (H,W,3)."""
    loss = (image - target).abs().mean()
    if ssim <= 0:
        return loss
    return loss + ssim * (1 - _ssim(image, target))


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity with an 8 px box window, stride 4: cheap, and smooth enough to descend."""
    pool = lambda x: F.avg_pool2d(x, 8, 4)  # noqa: E731
    a, b = a.movedim(-1, 0), b.movedim(-1, 0)
    mean_a, mean_b = pool(a), pool(b)
    var_a, var_b = pool(a * a) - mean_a**2, pool(b * b) - mean_b**2
    both = pool(a * b) - mean_a * mean_b
    c1, c2 = 1e-4, 9e-4
    value = (
        (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    )
    return value.mean()


def psnr(image: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Decibels over the pixels of mask (H,W), or all."""
    error = (np.asarray(image, np.float64) - np.asarray(target, np.float64)) ** 2
    error = error if mask is None else error[mask]
    return float(-10 * np.log10(max(error.mean(), 1e-12))) if error.size else float("nan")
