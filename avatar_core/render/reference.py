"""The `reference` backend: splatting as dense plain torch, any float type, any device. It is the specification.

Source: EWA splatting (Zwicker et al. 2001), 3D Gaussian splatting (Kerbl et al. 2023), conventions of gsplat (Apache-2.0).
Slow on purpose: every splat is evaluated at every pixel of a tile. Shape letters: N splats, M visible splats, P pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from avatar_core.render.batch import Batch, Settings, check_values

TILE = 32  # small tiles: memory is pixels of a tile times splats on it


def rotation_matrices(quats: Tensor) -> Tensor:
    """Quaternions (N, 4) wxyz of any length -> rotations (N, 3, 3); a zero quaternion is the identity."""
    length = quats.norm(dim=-1, keepdim=True)
    w, x, y, z = (quats / torch.where(length > 0, length, 1.0)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def project(
    means: Tensor, quats: Tensor, scales: Tensor, viewmat: Tensor, K: Tensor, s: Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Splats in front of the near plane -> image centres (M, 2) px, conics (M, 3) as (xx, xy, yy), depths (M,), variances
    along x and y (M, 2) px^2."""
    points = means @ viewmat[:3, :3].T + viewmat[:3, 3]
    x, y, z = points.unbind(-1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    # inside the Jacobian, x/z and y/z are clamped a little outside the image
    margin_x, margin_y = 0.15 * s.width / fx, 0.15 * s.height / fy
    tx = z * torch.minimum(torch.maximum(x / z, -(cx / fx + margin_x)), (s.width - cx) / fx + margin_x)
    ty = z * torch.minimum(torch.maximum(y / z, -(cy / fy + margin_y)), (s.height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([fx / z, zero, -fx * tx / z**2], -1),
            torch.stack([zero, fy / z, -fy * ty / z**2], -1),
        ],
        -2,
    )
    factor = (
        jacobian @ viewmat[:3, :3] @ (rotation_matrices(quats) * scales[:, None, :])
    )  # covariance = factor factor^T
    covariance = factor @ factor.mT
    xx, xy, yy = covariance[:, 0, 0] + s.eps2d, covariance[:, 0, 1], covariance[:, 1, 1] + s.eps2d
    # det(U U^T + e I) = |u x v|^2 + e (|u|^2 + |v|^2) + e^2: no difference of large numbers, whatever the aspect ratio
    minors = torch.linalg.cross(factor[:, 0], factor[:, 1])
    det = (minors * minors).sum(-1) + s.eps2d * (xx + yy - s.eps2d)
    conics = torch.stack([yy / det, -xy / det, xx / det], -1)
    centres = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    return centres, conics, z, torch.stack([xx, yy], -1)


def blend(
    pixels: Tensor, centres: Tensor, conics: Tensor, opacities: Tensor, values: Tensor, s: Settings
) -> tuple[Tensor, Tensor]:
    """Front-to-back blending of depth-sorted splats at pixels (P, 2): values (M, C) -> sums (P, C), transmittance (P,)."""
    dx, dy = (pixels[:, None, :] - centres).unbind(-1)
    sigma = 0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) + conics[:, 1] * dx * dy
    alpha = (opacities * torch.exp(-sigma)).clamp(max=s.alpha_max)
    alpha = torch.where(opacities * torch.exp(-sigma) >= s.alpha_min, alpha, 0.0)
    with torch.no_grad():  # a pixel is finished before the splat that would take it to transmittance_min
        unfinished = torch.cumprod(1 - alpha, -1) > s.transmittance_min
    alpha = torch.where(unfinished, alpha, 0.0)
    after = torch.cumprod(1 - alpha, -1)
    before = torch.cat([after.new_ones(len(after), 1), after], -1)
    return (before[:, :-1] * alpha) @ values, before[:, -1]


def render_frame(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmat: Tensor,
    K: Tensor,
    background: Tensor | None,
    s: Settings,
    cull: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """One frame: colours (H, W, 3), alphas (H, W), depths (H, W).

    cull: leave out, tile by tile, the splats that are under alpha_min on the whole tile (same result, less work).
    """
    with torch.no_grad():
        z = means @ viewmat[2, :3] + viewmat[2, 3]
        visible = torch.nonzero((z > s.near_plane) & (opacities > 0) & (opacities >= s.alpha_min)).flatten()
        visible = visible[torch.argsort(z[visible], stable=True)]
    opacities, colors = opacities[visible], colors[visible]
    centres, conics, z, extents = project(means[visible], quats[visible], scales[visible], viewmat, K, s)
    with torch.no_grad():  # splats without area (possible if eps2d is 0) are not drawn
        drawn = torch.isfinite(conics).all(-1) & (conics[:, 0] > 0) & (conics[:, 2] > 0)
        reach = None
        if cull and s.alpha_min > 0:
            spread = 2 * torch.log(opacities / s.alpha_min)
            reach = torch.sqrt(extents * spread[:, None]) * 1.01 + 0.5
    values = torch.cat([colors, z[:, None]], -1)
    rows_of_tiles, rows_of_light = [], []
    for top in range(0, s.height, TILE):
        tiles, lights = [], []
        for left in range(0, s.width, TILE):
            height, width = min(TILE, s.height - top), min(TILE, s.width - left)
            y = torch.arange(top, top + height, dtype=means.dtype, device=means.device) + 0.5
            x = torch.arange(left, left + width, dtype=means.dtype, device=means.device) + 0.5
            pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
            chosen = drawn
            if reach is not None:
                middle = torch.stack([(x[0] + x[-1]) / 2, (y[0] + y[-1]) / 2])
                half = torch.stack([(x[-1] - x[0]) / 2, (y[-1] - y[0]) / 2])
                chosen = drawn & ((centres.detach() - middle).abs() <= reach + half).all(-1)
            k = torch.nonzero(chosen).flatten()
            part, light = checkpoint(
                blend, pixels, centres[k], conics[k], opacities[k], values[k], s, use_reentrant=False
            )
            tiles.append(part.reshape(height, width, 4))
            lights.append(light.reshape(height, width))
        rows_of_tiles.append(torch.cat(tiles, 1))
        rows_of_light.append(torch.cat(lights, 1))
    sums, transmittance = torch.cat(rows_of_tiles, 0), torch.cat(rows_of_light, 0)
    image = sums[..., :3]
    if background is not None:
        image = image + transmittance[..., None] * background
    return image, 1 - transmittance, sums[..., 3]


def rasterize(batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Colours (F, 3, H, W), alphas (F, H, W), depths (F, H, W) or None of a checked batch.

    Locked by test_reference_gradient_is_the_derivative_of_the_image, test_golden_files.
    """
    check_values(batch)
    s = batch.settings
    frames = []
    for f in range(batch.frames):
        frames.append(
            render_frame(
                batch.of_frame("means", f),
                batch.of_frame("quats", f),
                batch.of_frame("scales", f),
                batch.of_frame("opacities", f),
                batch.of_frame("colors", f),
                batch.of_frame("viewmats", f),
                batch.of_frame("Ks", f),
                batch.of_frame("background", f) if "background" in batch.tensors else None,
                s,
            )
        )
    if not frames:
        empty = batch.tensors["means"].new_zeros(0, s.height, s.width)
        return empty[:, None].expand(0, 3, s.height, s.width), empty, empty if s.return_depth else None
    images, alphas, depths = zip(*frames)
    return (
        torch.stack(images).movedim(-1, 1),
        torch.stack(alphas),
        torch.stack(depths) if s.return_depth else None,
    )
