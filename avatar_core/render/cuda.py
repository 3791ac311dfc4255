"""The `cuda` backend: gsplat's kernels (Apache-2.0), all frames in one batched call, `packed=False`.

gsplat is imported on first use and compiles its kernels then (it needs nvcc, minutes once). A call makes the CPU wait twice: gsplat
reads how many (tile, splat) pairs there are, and here it is read whether all numbers are finite. It has alpha_max = 0.999,
alpha_min = 1/255 and transmittance_min = 1e-4 built in; other values are refused here rather than ignored.
Shape letters: F frames, N splats, H, W image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avatar_core.render.batch import Batch, check_values

BUILT_IN = {"alpha_max": 0.999, "alpha_min": 1 / 255, "transmittance_min": 1e-4}
ATTRIBUTES = ("means", "quats", "scales", "opacities", "colors")


def rasterize(batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Colours (F, 3, H, W), alphas (F, H, W), depths (F, H, W) or None of a checked batch on a CUDA device.

    ValueError if a setting is not what gsplat has built in, RuntimeError without a CUDA device or gsplat.
    """
    for name, value in BUILT_IN.items():
        found = getattr(batch.settings, name)
        if not math.isclose(found, value, rel_tol=1e-6):
            raise ValueError(f"{name}: the cuda backend has {value:.6g} built in, found {found!r}")
    device = _card(batch)
    try:
        from gsplat.rendering import rasterization  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise RuntimeError(
            f"backend cuda: gsplat is needed (pip install 'audioavatar[gpu]'): {error}"
        ) from None

    s = batch.settings
    tensors = {name: batch.slices(name).to(device, torch.float32) for name in batch.tensors}
    zeros = torch.stack(
        [(tensor.detach() * 0).sum() for tensor in tensors.values()]
    )  # NaN if a value is not finite
    if not bool((zeros == 0).all() & (tensors["Ks"].detach()[:, (0, 1), (0, 1)] > 0).all()):
        check_values(batch)

    def per_frame(name: str) -> Tensor:
        tensor = tensors[name]
        if len(tensor) == 1:
            return tensor.expand(batch.frames, *tensor.shape[1:])
        return tensor if len(tensor) == batch.frames else tensor[batch.index[name].to(device, torch.long)]

    if batch.frames == 0:
        empty = tensors["means"].new_zeros(0, s.height, s.width)
        return empty[:, None].expand(0, 3, s.height, s.width), empty, empty if s.return_depth else None
    viewmats, Ks = per_frame("viewmats").contiguous(), per_frame("Ks").contiguous()
    one_set = all(len(tensors[name]) == 1 for name in ATTRIBUTES)  # of splats, seen by F cameras

    def splats(
        name: str,
    ) -> Tensor:  # else F sets, one camera each: sharing is undone and autograd sums the gradients
        return tensors[name][0] if one_set else per_frame(name).contiguous()

    images, alphas, _ = rasterization(
        means=splats("means"),
        quats=splats("quats"),
        scales=splats("scales"),
        opacities=splats("opacities"),
        colors=splats("colors"),
        viewmats=viewmats if one_set else viewmats[:, None],
        Ks=Ks if one_set else Ks[:, None],
        width=s.width,
        height=s.height,
        near_plane=s.near_plane,
        eps2d=s.eps2d,
        packed=False,
        render_mode="RGB+D" if s.return_depth else "RGB",
    )
    images = images.reshape(batch.frames, s.height, s.width, -1)
    alphas = alphas.reshape(batch.frames, s.height, s.width)
    colors = images[..., :3]
    if "background" in tensors:
        colors = colors + (1 - alphas)[..., None] * per_frame("background")[:, None, None]
    return colors.movedim(-1, 1), alphas, images[..., 3] if s.return_depth else None


def _card(batch: Batch) -> torch.device:
    """Where the means are, or torch's current CUDA device. Raises RuntimeError when there is none."""
    if not torch.cuda.is_available():
        raise RuntimeError("backend cuda: torch sees no CUDA device")
    means = batch.tensors["means"]
    return means.device if means.is_cuda else torch.device("cuda")
