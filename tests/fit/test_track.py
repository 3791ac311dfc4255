"""The template track on a clip whose truth is known: camera, face actions and head pose come back from keypoints alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar_core.errors import UserError
from avatar_core.fit.camera import PITCH_BIAS, STEADY, clip_camera, pitched, solve_camera
from avatar_core.fit.config import SkeletonTrackConfig
from avatar_core.fit.nodes import make_nodes
from avatar_core.fit.pose_prior import bend_cost
from avatar_core.fit.rig import bones, make_rig, place, subset
from avatar_core.fit.skeleton import forward_kinematics, make_skeleton
from avatar_core.fit.track import action_pairs, spline_basis, track_clip
from avatar_core.geometry.camera import look_at
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.framing import FIELD_OF_VIEW
from avatar_core.particles.layout import make_layout
from avatar_core.template import load_template
from avatar_core.template.landmarks import indices
from tests.fit.clip_scene import BUDGETS, SIZE, scene


@pytest.fixture(scope="module")
def rig():
    template = load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    return make_rig(scene().canonical, layout, template, "face", make_nodes(template, layout, 40, 8, 20))


def test_rig_at_rest_is_the_canonical_pose(rig):
    transforms, quats = bones(rig, torch.zeros(2, len(rig.skeleton.names), 3), torch.zeros(2, 3))
    points = place(rig, transforms, torch.zeros(2, len(rig.actions)))
    np.testing.assert_allclose(points[1].numpy(), rig.rest.T.numpy(), atol=1e-5)
    np.testing.assert_allclose(quats[0].numpy(), np.tile([1, 0, 0, 0], (quats.shape[1], 1)), atol=1e-6)


def test_uniform_node_motion_moves_everything(rig):
    transforms, _ = bones(rig, torch.zeros(1, len(rig.skeleton.names), 3), torch.zeros(1, 3))
    shift = torch.tensor([0.01, 0.0, -0.02]).expand(1, len(rig.node_rest), 3)
    points = place(rig, transforms, torch.zeros(1, len(rig.actions)), shift, torch.zeros_like(shift))
    moved = points[0].numpy() - rig.rest.T.numpy()
    np.testing.assert_allclose(moved, np.broadcast_to([0.01, 0, -0.02], moved.shape), atol=1e-5)


def test_lips_follow_their_own_nodes(rig):
    """No node carries both the upper and the lower mid lip."""
    template = load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    blend = rig.blend.matrix
    upper, lower = (set(blend[int(i)].indices) for i in (layout.lips_upper[0], layout.lips_lower[0]))
    heavy_upper = {k for k in upper if blend[int(layout.lips_upper[0]), k] > 0.4}
    heavy_lower = {k for k in lower if blend[int(layout.lips_lower[0]), k] > 0.4}
    assert not heavy_upper & heavy_lower


def test_subset_places_the_same_points(rig):
    keep = np.arange(0, rig.n_base, 3)
    part = subset(rig, keep)
    transforms, _ = bones(rig, 0.1 * torch.ones(1, len(rig.skeleton.names), 3), torch.zeros(1, 3))
    weights = 0.2 * torch.ones(1, len(rig.actions))
    full, some = place(rig, transforms, weights), place(part, transforms, weights)
    np.testing.assert_allclose(some[0, : len(keep)].numpy(), full[0, keep].numpy(), atol=1e-5)
    np.testing.assert_allclose(some[0, len(keep) :].numpy(), full[0, rig.n_base :].numpy(), atol=1e-5)


def test_forward_kinematics_turns_children_about_the_joint():
    template = load_template()
    skeleton = make_skeleton(template.bone_names, template.bone_parents, template.bone_heads, "face")
    rotvecs = torch.zeros(1, len(skeleton.names), 3)
    neck, head = skeleton.index("neck01", "head")
    rotvecs[0, neck, 2] = np.pi / 2
    rotation, offset, _ = forward_kinematics(skeleton, rotvecs, torch.zeros(1, 3))
    pivot = skeleton.joints[neck]
    np.testing.assert_allclose(
        (rotation[0, neck] @ pivot + offset[0, neck]).numpy(), pivot.numpy(), atol=1e-5
    )
    x = rotation[0, head] @ (pivot + torch.tensor([1.0, 0, 0])) + offset[0, head]
    np.testing.assert_allclose(x.numpy(), (pivot + torch.tensor([0, 1.0, 0])).numpy(), atol=1e-4)


def test_splines_sum_to_one():
    basis = spline_basis(11, 3.0)
    np.testing.assert_allclose(basis.sum(1).numpy(), np.ones(11), atol=1e-6)


def test_pairs_go_left_to_right():
    names = load_template().face_action_names
    left, right = action_pairs(names)
    found = {(names[a], names[b]) for a, b in zip(left, right, strict=True)}
    assert ("eyeBlinkLeft", "eyeBlinkRight") in found and ("eyeLookInLeft", "eyeLookOutRight") in found
    assert not any(a == "jawLeft" for a, _ in found)


def test_camera_and_mouth_come_back(rig):
    s = scene()
    rest = rig.rest[:, rig.n_base :].T.numpy()
    camera = solve_camera(rest, s.xy, s.confidence, SIZE, SIZE, 9.0)
    np.testing.assert_allclose(camera.position, s.camera.position, atol=0.03)
    _, track = track_clip(rig, s.xy, s.confidence, camera, SkeletonTrackConfig(iterations=80))
    assert track.point_error.mean() < 1.0
    jaw = load_template().face_action_names.index("jawOpen")
    assert np.corrcoef(track.weights[:, jaw].numpy(), s.weights[:, jaw])[0, 1] > 0.97


@pytest.fixture(scope="module")
def standing():
    """Canonical keypoints (M,3) of a whole person."""
    template = load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    whole = make_rig(scene().canonical, layout, template, "waist_up", make_nodes(template, layout, 40, 8, 20))
    return whole.rest[:, whole.n_base :].T.numpy()


@pytest.mark.parametrize("pitch", [-10.0, 0.0, 12.0])
@pytest.mark.parametrize("distance", [0.9, 2.5])
def test_a_camera_that_looks_up_or_down_from_a_known_distance_comes_back(standing, pitch, distance):
    middle = standing[indices(*STEADY)].mean(0)
    angle = np.radians(pitch)
    eye = middle + distance * np.array([0.05, -np.cos(angle), np.sin(angle)])
    true = look_at(eye, middle, 40.0, 256, 256)
    xy = np.repeat(true.project(standing)[0][None], 3, 0).astype(np.float32)
    confidence = np.full(xy.shape[:2], 0.9, np.float32)
    camera = clip_camera(standing, xy, confidence, 256, 256, "waist_up", distance)
    off = np.linalg.norm(camera.project(standing)[0] - xy[0], axis=-1)[indices(*STEADY)]
    found = np.degrees(np.arcsin(-camera.viewmat[2, 2]))
    assert found == pytest.approx(pitch, abs=4)
    assert off.mean() < 1.5
    assert camera.K[0, 0] == pytest.approx(true.K[0, 0], rel=0.1)


def test_the_pitch_of_a_camera_that_films_by_convention_is_found(standing):
    middle, found = standing[indices(*STEADY)].mean(0), []
    for pitch in (-6.0, 0.0, 6.0):
        angle = np.radians(pitch)
        eye = middle + 3.6 * np.array([0, -np.cos(angle), np.sin(angle)])
        xy = look_at(eye, middle, FIELD_OF_VIEW["waist_up"], 256, 256).project(standing)[0]
        seen = np.repeat(xy[None], 3, 0).astype(np.float32), np.full((3, len(xy)), 0.9, np.float32)
        camera = clip_camera(standing, *seen, 256, 256, "waist_up", None)
        assert camera.K[0, 0] == pytest.approx(
            128 / np.tan(np.radians(FIELD_OF_VIEW["waist_up"] / 2)), rel=1e-3
        )
        found.append(np.degrees(np.arcsin(-camera.viewmat[2, 2])))
    bias = np.degrees(PITCH_BIAS)  # exact points have no bias to take away
    np.testing.assert_allclose(np.array(found) + bias, [-6, 0, 6], atol=1.5)


def test_a_close_up_keeps_its_camera_level_and_stands_where_the_portrait_was_taken(rig):
    s = scene()
    rest = rig.rest[:, rig.n_base :].T.numpy()
    by_rule = clip_camera(rest, s.xy, s.confidence, SIZE, SIZE, "face", None)
    near = clip_camera(rest, s.xy, s.confidence, SIZE, SIZE, "face", 1.2)
    assert by_rule.position[1] == pytest.approx(s.camera.position[1], abs=0.05)
    assert rest[indices(*STEADY), 1].mean() - near.position[1] == pytest.approx(1.2, abs=0.02)
    np.testing.assert_allclose(near.viewmat[:3, :3], by_rule.viewmat[:3, :3])
    assert pitched(near, rest, s.xy, np.zeros_like(s.confidence), 1.2) is near


@pytest.fixture(scope="module")
def upper():
    """A whole person's rig, from the waist up."""
    template = load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    return make_rig(scene().canonical, layout, template, "waist_up", make_nodes(template, layout, 40, 8, 20))


def test_the_second_half_of_an_arm_may_twist_and_not_bend(rig, upper):
    names, joints = upper.skeleton.names, upper.skeleton.joints
    half, end = names.index("lowerarm02.R"), names.index("wrist.R")
    along = torch.nn.functional.normalize(joints[end] - joints[half], dim=0)
    across = torch.linalg.cross(along, torch.tensor([0.0, 1.0, 0.0]))
    across = across / across.norm()

    def cost(turn: torch.Tensor) -> float:
        rotvecs = torch.zeros(4, len(names), 3)
        rotvecs[:, half] = turn
        return float(bend_cost(upper, rotvecs))

    assert cost(0.8 * along) == pytest.approx(0, abs=1e-9)
    assert cost(0.1 * across + 0.5 * along) == pytest.approx(2 * 20 * 0.01, rel=1e-4)
    assert float(bend_cost(rig, torch.ones(4, len(rig.skeleton.names), 3))) == 0  # a close-up has no arms


@pytest.mark.parametrize(("elbow", "hand"), [(-0.3, -1.1), (-0.5, -0.6)])
def test_hands_are_held_as_far_ahead_as_they_are(upper, elbow, hand):
    """Depth of wrists that one camera sees, in a gesture with the elbows ahead of the trunk."""
    names = upper.skeleton.names
    rotvecs = torch.zeros(8, len(names), 3)
    for side in "LR":
        rotvecs[:, names.index(f"upperarm01.{side}"), 0] = elbow
        rotvecs[:, names.index(f"lowerarm01.{side}"), 0] = hand
    still = torch.zeros(8, len(upper.actions))
    points = place(upper, bones(upper, rotvecs, torch.zeros(8, 3))[0], still)[:, upper.n_base :].numpy()
    rest = upper.rest[:, upper.n_base :].T.numpy()
    middle = rest[indices(*STEADY)].mean(0)
    camera = look_at(middle + [0, -3.6, 0], middle, FIELD_OF_VIEW["waist_up"], 256, 256)
    xy = np.stack([camera.project(p)[0] for p in points]).astype(np.float32)
    _, track = track_clip(upper, xy, np.full(xy.shape[:2], 0.9, np.float32), camera)
    transforms, _ = bones(upper, track.rotvecs, track.translation)
    found = place(upper, transforms, track.weights)[:, upper.n_base :].numpy()
    wrists, elbows = indices("hand.wrist."), indices("elbow.")
    assert np.abs(found[:, wrists] - points[:, wrists])[..., 1].mean() < 0.06
    assert np.abs(found[:, elbows] - points[:, elbows])[..., 1].mean() < 0.04


def test_nobody_to_see(rig):
    s = scene()
    with pytest.raises(UserError, match="visible person"):
        solve_camera(rig.rest[:, rig.n_base :].T.numpy(), s.xy, 0 * s.confidence, SIZE, SIZE, 9.0)
