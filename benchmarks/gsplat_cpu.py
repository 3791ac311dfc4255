"""The peer: gsplat 1.5.3's own torch path (`gsplat.cuda._torch_impl`), made to run on the CPU.

Its projection and its `accumulate` with autograd are used as they are. Two pieces exist for CUDA only and are replaced:
`rasterize_to_indices_in_range` by a numba walk with the same visibility rule, and nerfacc's `render_weight_from_alpha` and
`accumulate_along_rays` by a cumulative sum and `index_add`.
"""

from __future__ import annotations

import math
import sys
import types
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from numba import njit
from torch import Tensor

TILE = 16


def missing() -> str | None:
    """Why the peer cannot run here, or None."""
    try:
        found = version("gsplat")
    except PackageNotFoundError:
        return "gsplat is not installed (extra `gpu`; pip install gsplat==1.5.3 --no-deps is enough here)"
    if found != "1.5.3":
        return f"gsplat 1.5.3 is needed, {found} is installed"
    try:
        import gsplat.cuda._torch_impl  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        return f"gsplat cannot be imported: {error}"
    return None


@njit
def _tile_range(mean: float, extent: float, tiles: int) -> tuple[int, int]:
    return max(0, int((mean - extent) // TILE)), min(tiles - 1, int((mean + extent) // TILE))


@njit
def _tile_lists(
    means: np.ndarray, extents: np.ndarray, order: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splats per 16 px tile in depth order: offsets (tiles + 1,), members (pairs,)."""
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    offsets = np.zeros(tiles_x * tiles_y + 1, np.int64)
    for i in order:
        x0, x1 = _tile_range(means[i, 0], extents[i, 0], tiles_x)
        y0, y1 = _tile_range(means[i, 1], extents[i, 1], tiles_y)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                offsets[y * tiles_x + x + 1] += 1
    offsets = np.cumsum(offsets)
    cursor = offsets[:-1].copy()
    members = np.zeros(offsets[-1], np.int64)
    for i in order:
        x0, x1 = _tile_range(means[i, 0], extents[i, 0], tiles_x)
        y0, y1 = _tile_range(means[i, 1], extents[i, 1], tiles_y)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                members[cursor[y * tiles_x + x]] = i
                cursor[y * tiles_x + x] += 1
    return offsets, members


@njit
def _walk(
    means: np.ndarray,
    conics: np.ndarray,
    opacities: np.ndarray,
    offsets: np.ndarray,
    members: np.ndarray,
    width: int,
    height: int,
    starts: np.ndarray,
    splats: np.ndarray,
    pixels: np.ndarray,
) -> np.ndarray:
    """Fills (splat, pixel) pairs sorted by pixel, then depth; with empty arrays it only counts. Returns counts (H * W,)."""
    tiles_x = -(-width // TILE)
    counts = np.zeros(width * height, np.int64)
    for p in range(width * height):
        x, y = p % width, p // width
        tile = (y // TILE) * tiles_x + x // TILE
        light, n = 1.0, 0
        for k in range(offsets[tile], offsets[tile + 1]):
            i = members[k]
            dx, dy = x + 0.5 - means[i, 0], y + 0.5 - means[i, 1]
            sigma = 0.5 * (conics[i, 0] * dx * dx + conics[i, 2] * dy * dy) + conics[i, 1] * dx * dy
            alpha = min(0.999, opacities[i] * math.exp(-sigma))
            if sigma < 0 or alpha < 1 / 255:
                continue
            if light * (1 - alpha) <= 1e-4:
                break
            light *= 1 - alpha
            if len(splats):
                splats[starts[p] + n], pixels[starts[p] + n] = i, p
            n += 1
        counts[p] = n
    return counts


def _pairs(
    means: Tensor, conics: Tensor, opacities: Tensor, depths: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor]:
    m, c, o, d = (t.detach().numpy() for t in (means, conics, opacities, depths))
    det = c[:, 0] * c[:, 2] - c[:, 1] ** 2
    spread = 2 * np.log(np.maximum(255 * o, 1))
    extents = np.sqrt(np.stack([c[:, 2], c[:, 0]], 1) * (spread / det)[:, None])
    offsets, members = _tile_lists(m, extents, np.argsort(d, kind="stable"), width, height)
    nothing = np.zeros(0, np.int64)
    counts = _walk(m, c, o, offsets, members, width, height, nothing, nothing, nothing)
    starts = np.cumsum(counts) - counts
    splats, pixels = np.empty(counts.sum(), np.int64), np.empty(counts.sum(), np.int64)
    _walk(m, c, o, offsets, members, width, height, starts, splats, pixels)
    return torch.from_numpy(splats), torch.from_numpy(pixels)


def _weights(alphas: Tensor, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    logs = torch.log1p(-alphas.double())
    before = torch.cumsum(logs, 0) - logs
    counts = torch.bincount(ray_indices, minlength=n_rays)
    starts = (torch.cumsum(counts, 0) - counts).clamp(max=max(len(before) - 1, 0))
    light = torch.exp(before - before[starts][ray_indices]).to(alphas.dtype)
    return alphas * light, light


def _accumulate(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
    source = weights[:, None] if values is None else weights[:, None] * values
    return torch.zeros(n_rays, source.shape[1]).index_add_(0, ray_indices, source)


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    background: Tensor,
) -> Tensor:
    """One frame (H, W, 3) through gsplat's torch code, differentiable."""
    import gsplat.cuda._torch_impl as gsplat_torch  # pyright: ignore[reportMissingImports]

    nerfacc = types.ModuleType("nerfacc")
    vars(nerfacc).update(render_weight_from_alpha=_weights, accumulate_along_rays=_accumulate)
    sys.modules["nerfacc"] = nerfacc
    covariances, _ = gsplat_torch._quat_scale_to_covar_preci(quats, scales, True, False)
    assert covariances is not None
    _, means2d, depths, conics, _ = gsplat_torch._fully_fused_projection(
        means, covariances, viewmat[None], K[None], width, height
    )
    splats, pixels = _pairs(means2d[0], conics[0], opacities, depths[0], width, height)
    image, alpha = gsplat_torch.accumulate(
        means2d,
        conics,
        opacities[None],
        colors[None],
        splats,
        pixels,
        torch.zeros_like(splats),
        width,
        height,
    )
    return image[0] + (1 - alpha[0]) * background
