"""The template asset, posing, keypoints and the particle layout."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.layout import FRAMES, REGIONS, make_layout
from avatar_core.template import (
    PosedTemplate,
    keypoint_template,
    load_template,
    pose_template,
    relaxed_rotvecs,
)
from avatar_core.template import landmarks as L
from avatar_core.template.mesh import PARTS

SMALL = {"face": 400, "hand": 120, "eyes": 40, "mouth_interior": 40, "body": 300}


def pose(seed):
    rng = np.random.default_rng(seed)
    return relaxed_rotvecs() + rng.normal(size=(104, 3)) * 0.05, rng.random(52) * 0.3, rng.normal(size=20)


def test_keypoints_are_named_once_and_mirror():
    assert len(set(L.KEYPOINTS)) == len(L.KEYPOINTS) == 17 + 42 + 77
    mirror = L.critics_groups()["mirror"]
    assert (mirror[mirror] == np.arange(len(mirror))).all()
    template = load_template()
    left = np.array(
        [
            template.vertex_of_base[i]
            for name, ids in L.FACE_POINTS.items()
            if name.endswith(".L")
            for i in ids
        ]
    )
    right = np.array(
        [
            template.vertex_of_base[i]
            for name, ids in L.FACE_POINTS.items()
            if name.endswith(".R")
            for i in ids
        ]
    )
    x = template.layout_positions
    assert (x[left, 0] > 0).all()
    assert np.abs(x[left][:, 1:].mean(0) - x[right][:, 1:].mean(0)).max() < 1e-3


def test_jaw_opens_the_inner_lips_and_blinks_close_the_lids():
    template = load_template()
    upper, lower = (template.vertex_of_base[i] for i in (L.UPPER_LIP_MIDDLE, L.LOWER_LIP_MIDDLE))
    names = template.face_action_names

    def gap(action, amount, a, b):
        weights = np.zeros(52, np.float32)
        weights[names.index(action)] = amount
        v = template.add_actions(template.vertices, weights)
        return v[a, 2] - v[b, 2]

    assert gap("jawOpen", 0, upper, lower) < 0.002
    assert gap("jawOpen", 0.5, upper, lower) > 0.012
    lid_up, lid_low = (
        template.vertex_of_base[L.FACE_POINTS[f"eyelids.{k}2.L"][0]] for k in ("upper", "lower")
    )
    assert gap("eyeBlinkLeft", 1, lid_up, lid_low) < 0.4 * gap("eyeBlinkLeft", 0, lid_up, lid_low)


def test_torch_twin_equals_numpy():
    template = load_template()
    rotvecs, weights, shape = pose(0)
    want = pose_template(template, shape, rotvecs, np.array([0.1, 0.2, 0.3]), weights)
    f32 = lambda a: torch.tensor(np.asarray(a), dtype=torch.float32)  # noqa: E731
    got, _ = PosedTemplate(template)(
        f32(shape), f32(rotvecs)[None], f32([[0.1, 0.2, 0.3]]), f32(weights)[None]
    )
    assert np.abs(got[0].numpy() - want).max() < 1e-5


def test_batched_keypoints_equal_those_of_the_posed_mesh_and_have_gradients():
    template = load_template()
    rotvecs, weights, shape = pose(1)
    vertices = pose_template(template, shape, rotvecs, None, weights)
    turn = torch.tensor(rotvecs[None], dtype=torch.float32, requires_grad=True)
    points = keypoint_template().keypoints(
        torch.tensor(shape, dtype=torch.float32), turn, None, torch.tensor(weights[None], dtype=torch.float32)
    )[0]
    for k, ids in L.KEYPOINT_VERTICES:
        want = vertices[template.vertex_of_base[list(ids)]].mean(0)
        assert points[k].detach().numpy() == pytest.approx(want, abs=1e-5)
    points.square().sum().backward()
    assert turn.grad is not None and torch.isfinite(turn.grad).all() and turn.grad.abs().sum() > 0


def test_layout_is_deterministic_keeps_budgets_and_holds_the_mid_lips():
    layout = make_layout(ParticleBudgets(**SMALL, seed=3))
    again = make_layout(ParticleBudgets(**dict(reversed(SMALL.items())), seed=3))
    assert (layout.triangles == again.triangles).all() and (layout.barycentric == again.barycentric).all()
    assert np.bincount(layout.region, minlength=6).tolist() == [300, 400, 120, 120, 40, 40]
    template = load_template()
    points = layout.points(template.vertices)
    lip = template.vertices[template.vertex_of_base[L.UPPER_LIP_MIDDLE]]
    assert points[layout.lips_upper[0]] == pytest.approx(lip, abs=1e-6)
    assert not (make_layout(ParticleBudgets(**SMALL, seed=4)).triangles == layout.triangles).all()


def test_front_teeth_have_particles_of_their_own():
    template, layout = load_template(), make_layout(ParticleBudgets())
    inside = layout.region == REGIONS["mouth_interior"]
    part = template.part[layout.triangles[:, 0]]
    upper = np.flatnonzero(inside & (part == PARTS["upper_teeth"]))
    # A tooth in front is some 8 mm wide: its neighbours are nearer.
    front = upper[np.argsort(layout.template_positions[upper, 1])[:40]]
    distance, _ = cKDTree(layout.template_positions[upper]).query(layout.template_positions[front], k=2)
    assert np.median(distance[:, 1]) < 0.0035 and inside.sum() == 420


def test_carriers_are_world_frame_and_rigid():
    template, layout = load_template(), make_layout(ParticleBudgets(**SMALL, seed=3))
    rotvecs = relaxed_rotvecs()
    rotvecs[template.bone_index["head"]] = (0.3, 0.1, -0.2)
    before = layout.points(pose_template(template, None, relaxed_rotvecs()))
    after = layout.points(pose_template(template, None, rotvecs, None, np.full(52, 0.3)))
    index = layout.carriers["head"]
    assert len(index) >= 3 and (layout.frame[index] == FRAMES["world"]).all()
    size = lambda p: np.linalg.norm(p[index] - p[index].mean(0), axis=1)  # noqa: E731
    assert np.abs(size(before) - size(after)).max() < 0.002
    assert np.linalg.norm(after[index] - before[index], axis=1).mean() > 0.01


def test_layout_refuses_tiny_budgets():
    with pytest.raises(ValueError, match="particles.face"):
        make_layout(ParticleBudgets(**{"face": 2}))


def test_every_region_is_on_the_right_side():
    layout = make_layout(ParticleBudgets(**SMALL, seed=3))
    x = layout.template_positions[:, 0]
    assert (x[layout.region == REGIONS["hand_left"]] > 0.2).all()
    assert (x[layout.region == REGIONS["hand_right"]] < -0.2).all()
