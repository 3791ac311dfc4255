"""Differentiable Gaussian splatting: one call, three backends that agree.

`rasterize` has the names and semantics of gsplat's `rasterization`: OpenCV cameras, world-to-camera `viewmats`, pixel
centres at +0.5, quaternions wxyz. Backends: `cpu` (own SIMD kernel, csrc/), `cuda` (gsplat), `reference` (plain torch).
"""

from __future__ import annotations

import torch
from torch import Tensor

from avatar_core.render.batch import Settings, make_batch

__all__ = ["rasterize"]


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    background: Tensor | None = None,
    backend: str = "auto",
    eps2d: float = 0.3,
    alpha_max: float = 0.999,
    alpha_min: float = 1 / 255,
    transmittance_min: float = 1e-4,
    near_plane: float = 0.01,
    return_depth: bool = False,
    threads: int | None = None,
) -> tuple[Tensor, ...]:
    """Renders splats; differentiable in all tensors but `Ks`.

    means (..., N, 3) metres, quats (..., N, 4) wxyz of any length (zero = no rotation), scales (..., N, 3) standard
    deviations in metres, opacities (..., N), colors (..., N, 3), viewmats (..., 4, 4) world to camera, Ks (..., 3, 3) pixels.
    Leading dims (frames, cameras) broadcast; a tensor without them is shared by the batch and gets the sum of the gradients.
    background: None (black), (3,), (..., 3) or an image (..., height, width, 3).

    eps2d: added to the diagonal of the 2D covariance, px^2. alpha_max: largest alpha of one splat. alpha_min: smaller alphas
    are skipped. transmittance_min: a pixel is finished before it falls to this. near_plane: nearest depth drawn, metres.
    backend: "cpu", "cuda", "reference" or "auto" (cuda for CUDA tensors, else cpu). threads: of the cpu backend; None =
    the environment variable AVATAR_RENDER_THREADS or torch's count; the result does not depend on it.

    Returns colors (..., height, width, 3), alphas (..., height, width, 1) and, if asked for, depth (..., height, width, 1):
    the alpha-blended sum of the depths (divide by alpha for the expected depth). Images are stored planar:
    `colors.movedim(-1, -3)` is contiguous and free.

    ValueError, naming the argument, for wrong shapes, NaN or infinity, settings out of range.
    Locked by test_equals_float64_autograd, test_any_scene_equals_the_reference.
    """
    settings = Settings(
        width, height, eps2d, alpha_max, alpha_min, transmittance_min, near_plane, return_depth
    )
    arguments = {
        "means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors,
        "viewmats": viewmats, "Ks": Ks,
    }  # fmt: skip
    image_background = None
    if background is not None and background.ndim >= 3 and background.shape[-3:-1] == (height, width):
        image_background, background = background, None
    batch = make_batch(arguments, background, settings)
    if backend == "auto":
        backend = "cuda" if means.is_cuda else "cpu"
    if backend == "cpu":
        from avatar_core.render import cpu

        images, alphas, depths = cpu.rasterize(batch, threads=threads)
    elif backend == "cuda":
        from avatar_core.render import cuda

        images, alphas, depths = cuda.rasterize(batch)
    elif backend == "reference":
        from avatar_core.render import reference

        images, alphas, depths = reference.rasterize(batch)
    else:
        raise ValueError(f"backend: expected auto, cpu, cuda or reference, found {backend!r}")

    shape = batch.shape
    out_colors = images.reshape(*shape, 3, height, width).movedim(-3, -1)
    out_alphas = alphas.reshape(*shape, height, width, 1)
    if image_background is not None:
        # to look at its values would make a CUDA device wait
        if image_background.shape[-1] != 3 or not (
            image_background.is_cuda or bool(torch.isfinite(image_background).all())
        ):
            raise ValueError("background: expected finite RGB, found another channel count, NaN or infinity")
        out_colors = out_colors + (1 - out_alphas) * image_background
    if depths is None:
        return out_colors, out_alphas
    return out_colors, out_alphas, depths.reshape(*shape, height, width, 1)
