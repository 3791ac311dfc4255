"""Turning vectors by quaternions is what the rotation matrix does, and the conjugate turns them back."""

from __future__ import annotations

import torch

from avatar_core.geometry.rotations import quat_conj, quat_from_rotvec, quat_rotate, quat_to_matrix


def test_a_quaternion_turns_as_its_matrix_and_its_conjugate_turns_back():
    generator = torch.Generator().manual_seed(0)
    rotvec, vector = torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    quat = quat_from_rotvec(rotvec)
    turned = quat_rotate(quat, vector)
    torch.testing.assert_close(turned, (quat_to_matrix(quat) @ vector[..., None])[..., 0])
    torch.testing.assert_close(quat_rotate(quat_conj(quat), turned), vector)
