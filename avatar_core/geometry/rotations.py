"""Rotations in torch: quaternions wxyz, rotation vectors (radians), matrices, and the best rigid fit.

All functions take leading batch dimensions, are differentiable, and finite at the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

SQUARINGS = 12  # the second eigenvalue counts for less by its share to the power of 4096


def quat_mul(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product a b of (..., 4). Locked by test_products_and_conversions_agree_with_scipy."""
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


def quat_conj(quat: Tensor) -> Tensor:
    """The inverse of unit quaternions (..., 4).

    Locked by test_a_quaternion_turns_as_its_matrix_and_its_conjugate_turns_back.
    """
    return torch.cat([quat[..., :1], -quat[..., 1:]], -1)


def quat_rotate(quat: Tensor, vector: Tensor) -> Tensor:
    """Turn vectors (..., 3) by unit quaternions (..., 4); leading dimensions broadcast.

    Locked by test_a_quaternion_turns_as_its_matrix_and_its_conjugate_turns_back.
    """
    w, u = quat[..., :1], quat[..., 1:]
    vector, u = torch.broadcast_tensors(vector, u)
    twice = 2 * torch.linalg.cross(u, vector)
    return vector + w * twice + torch.linalg.cross(u, twice)


def quat_from_rotvec(rotvec: Tensor) -> Tensor:
    """Rotation vectors (..., 3) -> unit quaternions (..., 4).

    Locked by test_products_and_conversions_agree_with_scipy.
    """
    half = 0.5 * rotvec
    angle = (half.square().sum(-1, keepdim=True) + 1e-24).sqrt()
    return torch.cat([angle.cos(), half * torch.sinc(angle / torch.pi)], -1)


def rotvec_from_quat(quat: Tensor) -> Tensor:
    """Unit quaternions (..., 4) -> rotation vectors (..., 3) of at most pi.

    Locked by test_rotvec_round_trip_up_to_half_a_turn.
    """
    quat = torch.where(quat[..., :1] < 0, -quat, quat)
    w, v = quat[..., :1], quat[..., 1:]
    size = (v.square().sum(-1, keepdim=True) + 1e-24).sqrt()
    return v * (2 * torch.atan2(size, w) / size)


def quat_to_matrix(quat: Tensor) -> Tensor:
    """Unit quaternions (..., 4) -> rotation matrices (..., 3, 3).

    Locked by test_products_and_conversions_agree_with_scipy.
    """
    w, x, y, z = quat.unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_from_rotvec(rotvec: Tensor) -> Tensor:
    """Rodrigues' formula: (..., 3) -> (..., 3, 3).

    Locked by test_products_and_conversions_agree_with_scipy, test_rotvec_gradient_is_finite_at_zero.
    """
    return quat_to_matrix(quat_from_rotvec(rotvec))


def rigid_fit(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best rigid motion of points (C,3) onto (T,C,3): quaternion (T,4), source centroid (3), target centroids (T,3).

    The rotation is the top eigenvector of Horn's 4x4 matrix, found without gradients. One Newton step of the same
    least-squares problem, which is zero there, then carries the exact first derivative: unlike the derivative of an
    SVD it stays finite when singular values coincide, and for flat points. Source: Horn 1987.
    Locked by test_rigid_fit_recovers_a_rigid_motion, test_rigid_fit_gradient_is_exact_for_flat_and_symmetric_points.
    """
    centre, centre_t = source.mean(0), target.mean(1)
    cross = (target - centre_t[:, None]).transpose(-1, -2) @ (source - centre)  # (T,3,3) sum of q p^T
    with torch.no_grad():
        h = cross.double().transpose(-1, -2)  # sum of p q^T, as in Horn
        skew = torch.stack([h[:, 1, 2] - h[:, 2, 1], h[:, 2, 0] - h[:, 0, 2], h[:, 0, 1] - h[:, 1, 0]], -1)
        trace = h.diagonal(dim1=-2, dim2=-1).sum(-1)
        horn = h.new_zeros(len(h), 4, 4)
        horn[:, 0, 0] = trace
        horn[:, 0, 1:] = horn[:, 1:, 0] = skew
        horn[:, 1:, 1:] = (
            h + h.transpose(-1, -2) - trace[:, None, None] * torch.eye(3, dtype=h.dtype, device=h.device)
        )
        best = torch.linalg.eigh(horn).eigenvectors[..., -1] if horn.is_cpu else top_eigenvector(horn)
        best = torch.where(best[:, :1] < 0, -best, best).to(cross.dtype)
    s = cross @ quat_to_matrix(best).transpose(-1, -2)  # sum of q (R p)^T, symmetric at the optimum
    slope = torch.stack([s[:, 2, 1] - s[:, 1, 2], s[:, 0, 2] - s[:, 2, 0], s[:, 1, 0] - s[:, 0, 1]], -1)
    sym = 0.5 * (s + s.transpose(-1, -2)).detach()
    trace = sym.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    eye = torch.eye(3, dtype=s.dtype, device=s.device)
    curvature = trace * eye - sym + (1e-6 * trace.abs() + 1e-12) * eye
    step = torch.linalg.solve_ex(curvature, slope).result  # solve() would make a device wait
    step = torch.cat([torch.ones_like(step[:, :1]), 0.5 * step], -1)
    return quat_mul(normalize(step, dim=-1), best), centre, centre_t


def top_eigenvector(symmetric: Tensor) -> Tensor:
    """Unit eigenvectors (T,n) of the largest eigenvalues of symmetric matrices (T,n,n), by squaring them SQUARINGS times.

    For a CUDA device, where `eigh` makes the CPU wait: it reads whether it converged.
    Locked by test_squaring_finds_the_top_eigenvector.
    """
    size = torch.linalg.matrix_norm(symmetric)[:, None, None] + 1e-30
    power = symmetric / size + torch.eye(symmetric.shape[-1], dtype=size.dtype, device=size.device)
    for _ in range(SQUARINGS):
        power = power @ power
        power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    largest = power.diagonal(dim1=-2, dim2=-1).argmax(-1)
    column = power.take_along_dim(largest[:, None, None], -1)[..., 0]
    return normalize(column, dim=-1)
