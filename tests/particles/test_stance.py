"""Motion about the portrait's stance: nothing tears, the relaxed stance moves as learnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.deformation import Deformation, LocalFrames
from avatar_core.particles.layout import make_layout
from avatar_core.particles.stance import StanceFrames, to_stance
from avatar_core.template import load_template, pose_template, relaxed_rotvecs
from tests.fit.clip_scene import make_canonical

BUDGETS = {"face": 300, "hand": 150, "eyes": 40, "mouth_interior": 40, "body": 1500}


@pytest.fixture(scope="module")
def layout():
    return make_layout(ParticleBudgets(**BUDGETS))


@pytest.fixture(scope="module")
def canonical(layout):
    return make_canonical(layout)


def arms_crossed():
    """Rotation vectors of forearms laid across the body, trunk and head turned."""
    bone, out = load_template().bone_index, relaxed_rotvecs().copy()
    for side, sign in (("L", 1.0), ("R", -1.0)):
        out[bone[f"lowerarm01.{side}"]] = (-1.2, 0, -sign * 1.0)
        out[bone[f"upperarm01.{side}"]] += (-0.3, 0, 0)
    out[bone["spine02"]] = (0.1, 0, 0.1)
    out[bone["head"]] = (0, 0, 0.6)
    return out


def gesture(layout):
    """A nodding, shrugging, waving deformation of the relaxed person, 3 frames."""
    template, frames = load_template(), []
    bone = template.bone_index
    still = layout.points(pose_template(template, np.zeros(4, np.float32), relaxed_rotvecs()))
    local = LocalFrames(make_canonical(layout), layout)
    for size in (0.0, 0.5, 1.0):
        rotvecs = relaxed_rotvecs().copy()
        rotvecs[bone["lowerarm01.L"]] += (-0.9 * size, 0, 0)
        rotvecs[bone["upperarm01.R"]] += (-0.5 * size, 0, 0.3 * size)
        rotvecs[bone["head"]] += (0.15 * size, 0.05 * size, 0)
        rotvecs[bone["spine04"]] += (0.03 * size, 0, 0)
        frames.append(layout.points(pose_template(template, np.zeros(4, np.float32), rotvecs)))
    assert np.abs(frames[0] - still).max() < 1e-6
    means = torch.from_numpy(np.stack(frames)).float()
    return local.decompose(means, local.rest.quats[: local.n_base].expand(3, -1, -1))


def test_the_relaxed_stance_with_full_freedom_moves_as_learnt(canonical, layout):
    deformation = gesture(layout)
    deformation = replace(deformation, rotation=torch.randn(deformation.rotation.shape) * 0.1)
    learnt = LocalFrames(canonical, layout).compose(deformation)
    played = StanceFrames(canonical, layout, np.ones(2)).compose(deformation)
    assert (played.means - learnt.means).abs().max() < 2e-5
    assert (1 - (played.quats * learnt.quats).sum(-1).abs()).max() < 1e-5


def test_no_motion_is_the_portraits_stance(canonical, layout):
    posed = replace(canonical, stance=arms_crossed())
    zero = torch.zeros(1, len(layout), 3)
    means = StanceFrames(posed, layout, np.ones(2)).compose(Deformation(zero, zero)).means[0]
    truth = layout.points(pose_template(load_template(), canonical.shape, arms_crossed()))
    assert np.abs(means.numpy() - to_stance(posed, layout).means).max() < 1e-5
    # barycentric points of skinned corners and skinned points differ a little at joints
    assert np.median(np.linalg.norm(means.numpy() - truth, axis=1)) < 1e-3


def stretch(means, knn, rest):
    """The largest factor by which a particle's nearest neighbours move away."""
    length = lambda p: np.linalg.norm(p[knn[:, :3]] - p[:, None], axis=-1)  # noqa: E731
    return np.quantile(length(means) / (length(rest) + 1e-3), 0.999)


@pytest.mark.parametrize("freedom", [0.0, 0.2])
def test_arms_far_from_the_relaxed_stance_do_not_tear(canonical, layout, freedom):
    posed = replace(canonical, stance=arms_crossed())
    frames = StanceFrames(posed, layout, np.full(2, freedom))
    means = frames.compose(gesture(layout)).means.numpy()
    standing = to_stance(posed, layout).means
    forearms = load_template().bone_weight("lowerarm", "wrist", "finger")
    arm = np.einsum("nk,nk->n", forearms[layout.triangles], layout.barycentric) > 0.9
    assert stretch(means[2], canonical.knn, standing) < 1.5
    moved = np.linalg.norm(means[2] - means[0], axis=-1)[arm].max()
    assert moved < 0.03 + 0.6 * freedom
    assert freedom == 0 or moved > 0.02


def test_the_head_nods_about_its_own_axes(canonical, layout):
    posed = replace(canonical, stance=arms_crossed())
    means = StanceFrames(posed, layout, np.zeros(2)).compose(gesture(layout)).means
    face = layout.frame == 1
    nod = np.linalg.norm((means[2] - means[0]).numpy()[face], axis=-1)
    learnt = LocalFrames(canonical, layout).compose(gesture(layout)).means
    expected = np.linalg.norm((learnt[2] - learnt[0]).numpy()[face], axis=-1)
    assert np.abs(nod.mean() / expected.mean() - 1) < 0.2
