"""Rotations in torch: quaternions wxyz, rotation vectors, matrices, and the best rigid fit.

All functions take leading batch dimensions, are differentiable, and finite at the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quat_mul(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product a b of (..., 4)."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def quat_from_rotvec(rotvec: Tensor) -> Tensor:
    """Rotation vectors (..., 3) in radians -> unit quaternions (..., 4)."""
    angle = (rotvec.square().sum(-1, keepdim=True) + 1e-16).sqrt()
    half = 0.5 * angle
    return torch.cat([half.cos(), rotvec * (half.sin() / angle)], -1)


def matrix_from_rotvec(rotvec: Tensor) -> Tensor:
    """Rodrigues' formula: (..., 3) -> (..., 3, 3)."""
    return quat_to_matrix(quat_from_rotvec(rotvec))


def quat_to_matrix(quat: Tensor) -> Tensor:
    """Unit quaternions (..., 4) -> rotation matrices (..., 3, 3)."""
    w, x, y, z = quat.unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_quat(matrix: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> unit quaternions (..., 4) with w >= 0.

    Of four algebraically equal forms the one with the largest divisor is taken (Shepperd 1978).
    """
    m = matrix
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    square = torch.stack(
        [1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], -1
    )
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    forms = torch.stack(
        [
            torch.stack([square[..., 0], a, b, c], -1),
            torch.stack([a, square[..., 1], d, e], -1),
            torch.stack([b, d, square[..., 2], f], -1),
            torch.stack([c, e, f, square[..., 3]], -1),
        ],
        -2,
    )
    best = square.detach().argmax(-1)[..., None, None].expand(*square.shape[:-1], 1, 4)
    quat = torch.nn.functional.normalize(forms.gather(-2, best).squeeze(-2), dim=-1)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def kabsch(source: Tensor, target: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Best rigid motion of source (..., C, 3) onto target (..., C, 3): R (..., 3, 3), t (..., 3), target = R source + t.

    Weights (..., C) >= 0. Kabsch 1976; no gradients where singular values coincide.
    """
    weights = torch.ones(source.shape[:-1]).to(source) if weights is None else weights
    share = (weights / weights.sum(-1, keepdim=True))[..., None]
    middle_s, middle_t = (share * source).sum(-2, keepdim=True), (share * target).sum(-2, keepdim=True)
    cross = (share * (target - middle_t)).transpose(-1, -2) @ (source - middle_s)
    u, _, vh = torch.linalg.svd(cross)
    sign = torch.det(u @ vh).sign()
    turn = torch.ones(*sign.shape, 3).to(u)
    turn[..., 2] = sign
    rotation = (u * turn[..., None, :]) @ vh
    return rotation, (middle_t - middle_s @ rotation.transpose(-1, -2)).squeeze(-2)
