"""The whole deformable fit on a clip whose truth is known: it draws the frames again, and the lips move as they did."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from avatar_core.errors import UserError
from avatar_core.fit.adam import FlooredAdam
from avatar_core.fit.clip_refine import windows
from avatar_core.fit.config import FitConfig, FitWeights, SkeletonTrackConfig
from avatar_core.fit.deform import fit_clip
from avatar_core.fit.nodes import make_nodes
from avatar_core.fit.pose import Pose, pose_deformation
from avatar_core.fit.rig import make_rig
from avatar_core.metrics.truth import truth_report
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.deformation import LocalFrames
from avatar_core.particles.framing import VISIBLE
from avatar_core.particles.layout import make_layout
from avatar_core.template import load_template
from tests.fit.clip_scene import BUDGETS, scene

CONFIG = FitConfig(iterations=4, batch=4, track=SkeletonTrackConfig(iterations=60))


@pytest.fixture(scope="module")
def parts():
    template = load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    return template, layout, make_nodes(template, layout, 40, 8, 20)


def _fit(parts, config=CONFIG, **changes):
    template, layout, nodes = parts
    s = dataclasses.replace(scene(), **changes)
    return fit_clip(
        s.frames,
        s.masks,
        s.tracks,
        s.xy,
        s.confidence,
        s.canonical,
        layout,
        template,
        "face",
        config,
        nodes=nodes,
    )


@pytest.fixture(scope="module")
def fitted(parts):
    return _fit(parts)


def test_frames_and_lips(parts, fitted):
    template, layout, _ = parts
    s = scene()
    assert fitted.metrics["psnr_foreground"] > 26
    ids = np.flatnonzero(template.vertex_of_base[:19158] >= 0)
    truth = s.vertices[:, template.vertex_of_base[ids]]
    report = truth_report(ids, truth, template, layout, fitted.means, fitted.visible)
    assert report["lip_correlation"] > 0.95
    assert 0.75 < report["lip_slope"] < 1.25
    assert report["lips_mm"] < 3


def test_refinement_improves_the_picture(parts, fitted):
    start = _fit(parts, dataclasses.replace(CONFIG, iterations=0))
    assert fitted.metrics["psnr_foreground"] > start.metrics["psnr_foreground"] + 0.2


def test_pose_is_the_fit_without_its_nodes(parts, fitted):
    template, layout, nodes = parts
    rig = make_rig(scene().canonical, layout, template, "face", nodes)

    def posed(fit):
        return pose_deformation(Pose.of(vars(fit.pose)), rig, layout)

    # Before the first step no node has moved: the whole fit is its pose.
    start = _fit(parts, dataclasses.replace(CONFIG, iterations=0))
    np.testing.assert_allclose(posed(start).mean_offset, start.deformation.mean_offset, atol=1e-6)
    np.testing.assert_allclose(posed(start).rotation, start.deformation.rotation, atol=1e-5)
    moved = (posed(fitted).mean_offset - fitted.deformation.mean_offset).norm(dim=-1)
    assert 1e-4 < float(moved.max()) < 0.02


def test_deformation_composes_back(parts, fitted):
    splats = LocalFrames(scene().canonical, parts[1]).compose(fitted.deformation)
    np.testing.assert_allclose(splats.means.numpy(), fitted.means, atol=2e-5)
    assert torch.isfinite(splats.quats).all()
    assert fitted.visible == VISIBLE["face"]
    assert fitted.confidence.shape == (len(scene().frames),) and (fitted.confidence > 0.5).all()


def test_same_inputs_same_fit(parts, fitted):
    again = _fit(parts)
    np.testing.assert_array_equal(again.means, fitted.means)
    np.testing.assert_array_equal(again.frames, fitted.frames)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": np.zeros_like(scene().masks)}, "masks"),
        ({"masks": scene().masks[:-1]}, "masks"),
        ({"frames": scene().frames.astype(np.float32)}, "frames"),
        ({"xy": scene().xy[:, :5]}, "keypoints"),
        ({"xy": np.full_like(scene().xy, np.nan)}, "keypoints"),
        ({"tracks": scene().tracks[:-1]}, "tracks"),
    ],
)
def test_bad_inputs(parts, changes, message):
    with pytest.raises(UserError, match=message):
        _fit(parts, **changes)


def test_unknown_framing(parts):
    s = scene()
    with pytest.raises(UserError, match="framing"):
        fit_clip(s.frames, s.masks, s.tracks, s.xy, s.confidence, s.canonical, parts[1], parts[0], "side")


def test_weights_can_be_switched_off(parts):
    config = dataclasses.replace(
        CONFIG, iterations=1, weights=FitWeights(ssim=0, mask=0, tracks=0, keypoints=0)
    )
    assert np.isfinite(_fit(parts, config).means).all()


def test_windows_cover_every_frame_once():
    for frames, size in ((1, 16), (16, 16), (17, 16), (75, 16)):
        parts_ = windows(frames, size)
        assert [t for w in parts_ for t in range(w.start, w.stop)] == list(range(frames))
        assert max(w.stop - w.start for w in parts_) <= size


def test_adam_leaves_the_unseen_alone_and_can_undo():
    p = torch.zeros(2, requires_grad=True)
    optimizer = FlooredAdam([p], [0.1])
    for _ in range(5):
        optimizer.clear()
        (p[0] - 1).square().add(1e-6 * p[1]).backward()
        optimizer.step()
    assert p[0] > 0.3 and p[1].abs() < 1e-3
    before = p.detach().clone()
    optimizer.step()
    optimizer.undo()
    torch.testing.assert_close(p.detach(), before)
    assert optimizer.rates == [0.05]
