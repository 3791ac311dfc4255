"""The truth report: zero for a perfect fit, right size for a known error, and blind to scale and place alone."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_core.metrics.truth import LIP_LINE, correspond, lip_line, truth_report
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.framing import VISIBLE
from avatar_core.particles.layout import make_layout
from avatar_core.template import load_template, pose_template
from avatar_core.template.landmarks import FACE_LANDMARKS

BUDGETS = {"face": 900, "hand": 200, "eyes": 60, "mouth_interior": 60, "body": 900}


@pytest.fixture(scope="module")
def clip():
    """A head that nods while the jaw opens: true vertices of 6 frames and the particles on them."""
    template = load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    head, jaw = template.bone_index["head"], template.face_action_names.index("jawOpen")
    vertices = []
    for t in range(6):
        rotvecs = np.zeros((len(template.bone_names), 3))
        rotvecs[head, 0] = 0.05 * np.sin(t)
        face = np.zeros(len(template.face_action_names))
        face[jaw] = 0.1 * t
        vertices.append(pose_template(template, None, rotvecs, None, face))
    surface = np.stack(vertices)
    ids = np.union1d(np.concatenate([np.asarray(v) for v in FACE_LANDMARKS.values()]), np.arange(0, 13380, 5))
    ids = ids[template.vertex_of_base[ids] >= 0]
    return template, layout, surface, ids, surface[:, template.vertex_of_base[ids]]


def test_perfect_fit(clip):
    template, layout, surface, ids, truth = clip
    report = truth_report(ids, truth, template, layout, layout.points(surface))
    assert report["lip_correlation"] == pytest.approx(1, abs=1e-4)
    assert report["lip_slope"] == pytest.approx(1, abs=1e-3)
    assert report["lips_mm"] < 0.3
    assert max(report["face_mm"], report["hands_mm"], report["body_mm"]) < 1.0


def test_scale_and_place_are_no_error_but_a_frozen_mouth_is(clip):
    template, layout, surface, ids, truth = clip
    means = layout.points(surface)
    moved = truth_report(ids, truth, template, layout, 1.05 * means + [0.1, -0.2, 0.05])
    assert max(moved["lips_mm"], moved["face_mm"], moved["body_mm"]) < 1.0
    still = np.repeat(means[:1], len(means), 0)
    frozen = truth_report(ids, truth, template, layout, still)
    assert frozen["lip_correlation"] == 0
    assert frozen["lips_mm"] > 5 * moved["lips_mm"]


def test_the_lip_line_is_open_where_one_pair_is(clip):
    template, layout, surface, ids, truth = clip
    ours, true = lip_line(correspond(ids, truth, template, layout, layout.points(surface)))
    assert ours.shape == true.shape == (6, len(LIP_LINE)) == (6, 7)
    assert np.abs(ours - true).max() < 4e-4
    # the jaw opens from frame to frame, the middle the widest
    assert (np.diff(true[:, 0]) > 5e-4).all() and true[5, 0] - true[0, 0] == (true[5] - true[0]).max()
    # one pair near a corner stands open while the middle is shut: the truth is moved there, ours is not
    parted = truth.copy()
    parted[:, ids == LIP_LINE[-1][0], 2] += 0.004
    _, true = lip_line(correspond(ids, parted, template, layout, layout.points(surface)))
    assert (true[0] - ours[0]).argmax() == 6 and (true[0] - ours[0])[:6].max() < 4e-4
    with pytest.raises(ValueError, match="vertices of the lips"):
        few = ids != LIP_LINE[3][1]
        lip_line(correspond(ids[few], truth[:, few], template, layout, layout.points(surface)))


def test_known_error_in_the_hands(clip):
    template, layout, surface, ids, truth = clip
    means = layout.points(surface).copy()
    means[:, layout.region == 2] += [0, 0.03, 0]
    report = truth_report(ids, truth, template, layout, means)
    assert report["hands_mm"] == pytest.approx(15, abs=2.5)  # one hand of two is 30 mm off
    assert report["body_mm"] < 1.5


def test_unseen_regions_are_left_out(clip):
    template, layout, surface, ids, truth = clip
    report = truth_report(ids, truth, template, layout, layout.points(surface), VISIBLE["face"])
    assert "lips_mm" in report and "hands_mm" not in report and "body_mm" not in report


def test_wrong_shapes(clip):
    template, layout, surface, ids, truth = clip
    with pytest.raises(ValueError, match="truth: expected"):
        truth_report(ids[:-1], truth, template, layout, layout.points(surface))
