from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.geometry.rotations import quat_from_rotvec, quat_to_matrix, rigid_fit, rotvec_from_quat
from avatar_core.particles.deformation import Deformation, LocalFrames


def test_no_deformation_is_the_canonical_avatar(person):
    canonical, layout = person
    zero = torch.zeros(2, 430, 3)
    splats, still = LocalFrames(canonical, layout).compose(Deformation(zero, zero)), canonical.splats()
    assert torch.allclose(splats.means, still.means, atol=1e-5)
    assert torch.allclose(splats.quats, still.quats, atol=1e-5)
    assert all(torch.equal(getattr(splats, k), getattr(still, k)) for k in ("scales", "opacities", "colors"))


def test_decompose_inverts_compose(person):
    canonical, layout = person
    generator = torch.Generator().manual_seed(0)
    offset = torch.randn(3, 430, 3, generator=generator) * 0.05
    rotation = torch.randn(3, 430, 3, generator=generator) * 0.5
    frames = LocalFrames(canonical, layout)
    splats = frames.compose(Deformation(offset, rotation))
    back = frames.decompose(splats.means[:, :430], splats.quats[:, :430])
    assert torch.allclose(back.mean_offset, offset, atol=1e-5)
    assert torch.allclose(back.rotation, rotation, atol=1e-5)


def test_rigid_head_motion_leaves_the_face_still_and_carries_its_hair(person):
    canonical, layout = person
    turn = quat_to_matrix(quat_from_rotvec(torch.tensor([0.2, -0.4, 0.3])))
    rest = torch.from_numpy(canonical.means)
    offset = torch.zeros(1, 430, 3)
    skull = torch.from_numpy(layout.carriers["head"])
    moved = rest @ turn.T + torch.tensor([0.1, 0.2, -0.1])
    offset[0, skull] = moved[skull] - rest[skull]
    rotation = torch.zeros_like(offset)
    rotation[:, skull] = torch.tensor([0.2, -0.4, 0.3])
    means = LocalFrames(canonical, layout).compose(Deformation(offset, rotation)).means
    assert torch.allclose(means[0, 200:350], moved[200:350], atol=1e-5)
    assert torch.allclose(means[0, 430:], moved[430:], atol=1e-5)  # shells anchored to the skull
    assert torch.allclose(means[0, 350:430], rest[350:430], atol=1e-6)  # hands do not follow the head


def test_rigid_fit_gradient_is_exact_for_flat_and_symmetric_points():
    square = torch.tensor([[1.0, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]], dtype=torch.float64)
    turn = quat_to_matrix(quat_from_rotvec(torch.tensor([[0.3, 0.1, -0.2]], dtype=torch.float64)))
    target = (square @ turn.transpose(1, 2) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: rigid_fit(square, p)[0], (target,))
    assert torch.autograd.gradcheck(lambda p: rigid_fit(square, p)[2], (target,))


def test_compose_has_finite_gradients_at_rest(person):
    canonical, layout = person
    offset, rotation = (torch.zeros(2, 430, 3, requires_grad=True) for _ in range(2))
    splats = LocalFrames(canonical, layout).compose(Deformation(offset, rotation))
    (splats.means.square().sum() + splats.quats[..., 1].sum()).backward()
    assert torch.isfinite(offset.grad).all() and torch.isfinite(rotation.grad).all()
    assert offset.grad[:, layout.carriers["head"]].abs().sum() > 0


def test_rotvec_round_trip_up_to_half_a_turn():
    vectors = torch.tensor([[0.0, 0, 0], [1e-7, 0, 0], [0, 3.1, 0], [1.0, -1.0, 0.5]])
    assert torch.allclose(rotvec_from_quat(quat_from_rotvec(vectors)), vectors, atol=1e-5)


def test_colour_offsets_reach_base_particles_only(person):
    canonical, layout = person
    zero = torch.zeros(2, 430, 3)
    colors = LocalFrames(canonical, layout).compose(Deformation(zero, zero, zero + 0.1)).colors
    assert torch.allclose(colors[1, :430] - 0.1, torch.from_numpy(canonical.colors[:430]), atol=1e-6)
    assert torch.equal(colors[1, 430:], torch.from_numpy(canonical.colors[430:]))


def test_carriers_must_be_world_particles(person):
    canonical, layout = person
    broken = replace(layout, carriers={**layout.carriers, "head": np.arange(200, 240)})
    with pytest.raises(ValueError, match="carriers"):
        LocalFrames(canonical, broken)
