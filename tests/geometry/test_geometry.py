"""Rotations and cameras."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from avatar_core.geometry.camera import look_at, project
from avatar_core.geometry.rotations import (
    matrix_from_rotvec,
    quat_from_rotvec,
    quat_mul,
    quat_to_matrix,
    rigid_fit,
    rotvec_from_quat,
    top_eigenvector,
)

vectors = st.lists(st.floats(-3, 3), min_size=3, max_size=3)


@settings(max_examples=40, deadline=None)
@given(vectors, vectors)
def test_products_and_conversions_agree_with_scipy(a, b):
    want = (Rotation.from_rotvec(a) * Rotation.from_rotvec(b)).as_matrix()
    ra, rb = (torch.tensor(v, dtype=torch.float64) for v in (a, b))
    assert np.allclose((matrix_from_rotvec(ra) @ matrix_from_rotvec(rb)).numpy(), want, atol=1e-6)
    product = quat_mul(quat_from_rotvec(ra), quat_from_rotvec(rb))
    assert np.allclose(quat_to_matrix(product).numpy(), want, atol=1e-6)
    assert np.allclose(matrix_from_rotvec(rotvec_from_quat(product)).numpy(), want, atol=1e-6)


def test_rotvec_gradient_is_finite_at_zero():
    r = torch.zeros(2, 3, requires_grad=True)
    matrix_from_rotvec(r).sum().backward()
    assert r.grad is not None and torch.isfinite(r.grad).all()


def test_rigid_fit_recovers_a_rigid_motion():
    rng = np.random.default_rng(0)
    source = torch.from_numpy(rng.normal(size=(12, 3)))
    turn = torch.from_numpy(Rotation.from_rotvec([0.3, -1.0, 0.5]).as_matrix())
    moved = source @ turn.T + torch.tensor([1.0, 2.0, 3.0])
    quat, centre, centre_t = rigid_fit(source, moved[None])
    rotation = quat_to_matrix(quat)[0]
    assert torch.allclose(rotation, turn, atol=1e-9)
    assert torch.allclose((source - centre) @ rotation.T + centre_t[0], moved, atol=1e-9)


def test_camera_looks_at_its_target_and_crops():
    camera = look_at((0, -3, 1), (0, 0, 1), 20.0, 200, 100)
    xy, depth = camera.project(np.array([[0.0, 0, 1], [0, 0, 1.1], [0.1, 0, 1]]))
    assert xy[0] == pytest.approx([100, 50], abs=1e-3) and depth[0] == pytest.approx(3, abs=1e-5)
    assert xy[1, 1] < 50 < xy[2, 0]  # up in the world is up in the picture, the person's left is on the right
    crop = camera.crop(90, 40, 20, 20, 4.0)
    assert crop.project(np.array([0.0, 0, 1]))[0] == pytest.approx([40, 40], abs=1e-3)


def test_project_agrees_with_the_camera_and_unproject_undoes_it():
    camera = look_at((0.3, -3, 1.5), (0, 0, 1.2), 30, 64, 48)
    points = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32) * 0.3 + np.float32([0, 0, 1])
    xy, depth = camera.project(points)
    assert np.allclose(project(torch.from_numpy(points), camera).numpy(), xy, atol=1e-3)
    moving = replace(camera, K=np.stack([camera.K, camera.crop(5, 0, 32, 24, 2.0).K]))  # a window that moves
    both = project(torch.from_numpy(points).expand(2, -1, -1), moving).numpy()
    assert np.allclose(both, [xy, 2 * (xy - [5, 0])], atol=1e-3)
    assert np.allclose(camera.unproject(xy, depth), points, atol=1e-5)


def test_squaring_finds_the_top_eigenvector():
    rng = torch.Generator().manual_seed(0)
    values = torch.tensor([[-3.0, 0.1, 1.0, 1.02], [-5.0, -4.0, -3.0, -2.0], [0.0, 0.0, 0.0, 1e-9]]).double()
    axes = torch.linalg.qr(torch.randn(3, 4, 4, generator=rng, dtype=torch.float64)).Q
    found = top_eigenvector((axes * values[:, None]) @ axes.transpose(1, 2))
    assert ((found * axes[..., -1]).sum(-1).abs() > 1 - 1e-9).all()


def test_rigid_fit_is_the_same_by_squaring(monkeypatch):
    """What a GPU takes in place of eigh."""
    rng = torch.Generator().manual_seed(1)
    source = torch.randn(30, 3, generator=rng) * torch.tensor([0.1, 0.08, 0.01])
    turns = torch.randn(50, 3, generator=rng)
    target = source @ matrix_from_rotvec(turns).transpose(1, 2) + 0.002 * torch.randn(
        50, 30, 3, generator=rng
    )
    quats, *_ = rigid_fit(source, target)
    by_squaring = lambda h: SimpleNamespace(eigenvectors=top_eigenvector(h)[..., None])  # noqa: E731
    monkeypatch.setattr(torch.linalg, "eigh", by_squaring)
    again, *_ = rigid_fit(source, target)
    assert ((again * quats).sum(-1).abs() > 1 - 1e-6).all()
