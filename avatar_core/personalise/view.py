"""What a camera should see of a portrait, and what it sees of splats.

Legend: H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar_core.geometry.camera import Camera
from avatar_core.particles.splats import Splats, float_tensor, rasterize_splats
from avatar_core.personalise.pixels import slope_of_ssim

AROUND_PX = 24  # round the person: what is further off does not show them, however their outline moves


@dataclass(frozen=True)
class View:
    """A camera, what it should see (H,W,3), what is behind (H,W,3), the mask (H,W) and the colours that are the person's own there
    (H,W,3), as tensors."""

    camera: Camera
    target: Tensor
    background: Tensor
    mask: Tensor
    colors: Tensor

    @staticmethod
    def of(
        camera: Camera, image: np.ndarray, background: np.ndarray, mask: np.ndarray, colors: np.ndarray
    ) -> View:
        return View(camera, *(float_tensor(a) for a in (image, background, mask, colors)))

    def to(self, device: torch.device | str) -> View:
        parts = (self.target, self.background, self.mask, self.colors)
        return View(self.camera, *(part.to(device) for part in parts))

    def half(self) -> View:
        """The same view with half the pixels a side."""
        width, height = self.camera.width // 2, self.camera.height // 2
        K = self.camera.K.copy()
        K[0] *= width / self.camera.width
        K[1] *= height / self.camera.height
        camera = replace(self.camera, K=K, width=width, height=height)
        parts = (self.target, self.background, self.mask, self.colors)
        return View.of(
            camera, *(cv2.resize(a.numpy(), (width, height), interpolation=cv2.INTER_AREA) for a in parts)
        )

    def crop(self, x0: int, y0: int, side: int, pixels: int) -> View:
        """The square window of this view at another resolution."""
        camera = self.camera.crop(x0, y0, side, side, pixels / side)
        method = cv2.INTER_AREA if pixels < side else cv2.INTER_LINEAR
        cut = [
            cv2.resize(a.numpy()[y0 : y0 + side, x0 : x0 + side], (pixels, pixels), interpolation=method)
            for a in (self.target, self.background, self.mask, self.colors)
        ]
        return View.of(replace(camera, width=pixels, height=pixels), *cut)

    def around_person(self) -> tuple[View, int, int]:
        """The view's window that holds the person, and its first column and row."""
        found = np.nonzero(self.mask.numpy() > 0)
        (y0, y1), (x0, x1) = (
            (max(0, int(at.min()) - AROUND_PX), min(side, int(at.max()) + 1 + AROUND_PX))
            if len(at)
            else (0, side)
            for at, side in zip(found, self.mask.shape, strict=True)
        )
        parts = (self.target, self.background, self.mask, self.colors)
        cut = (part[y0:y1, x0:x1] for part in parts)
        return View(self.camera.crop(x0, y0, x1 - x0, y1 - y0), *cut), x0, y0


@dataclass(frozen=True)
class Wanted:
    """What a view should show before any plain colour, planar: person (3,H,W), their colours times their alpha; clear (H,W), 1 -
    alpha. absolute, ssim: what a pixel's difference and the picture's similarity weigh."""

    view: View
    person: Tensor
    clear: Tensor
    absolute: float
    ssim: float

    @staticmethod
    def of(view: View, weight: float, ssim: float) -> Wanted:
        """weight: of a pixel; ssim: of similarity against differences."""
        clear = 1 - view.mask
        person = (view.target - clear[..., None] * view.background).movedim(-1, 0).contiguous()
        return Wanted(view, person, clear, weight / 3, weight * ssim * clear.numel())

    def over(self, backdrop: Tensor) -> Tensor:
        """(3,H,W) the person before a plain colour (3,)."""
        return torch.addcmul(self.person, self.clear, backdrop[:, None, None])

    def slope(self, image: Tensor, backdrop: Tensor) -> tuple[Tensor, Tensor]:
        """Slope of L1 + ssim (1 - SSIM) with respect to a picture (3,H,W) before the backdrop, and its difference (3,H,W)."""
        wanted = self.over(backdrop)
        difference = image - wanted
        slope = difference.sign().mul_(self.absolute)
        if self.ssim > 0:
            slope.add_(slope_of_ssim(image, wanted), alpha=-self.ssim)
        return slope, difference


def render(
    view: View, splats: Splats, backdrop: Tensor | None = None, threads: int | None = None
) -> tuple[Tensor, Tensor]:
    """Picture (H,W,3), alpha (H,W); backdrop: a colour (3,), else the view's. threads: as in `render.rasterize`."""
    background = view.background if backdrop is None else backdrop
    image, alpha = rasterize_splats(splats, view.camera, background=background, threads=threads)
    return image, alpha[..., 0]


def psnr(image: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Decibels over the pixels of mask (H,W), or all."""
    error = (np.asarray(image, np.float64) - np.asarray(target, np.float64)) ** 2
    error = error if mask is None else error[mask]
    return float(-10 * np.log10(max(error.mean(), 1e-12))) if error.size else float("nan")
