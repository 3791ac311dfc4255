"""Which particles a refinement draws, and that leaving out the others changes neither the picture nor what may move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.fit.align import below_head
from avatar_core.fit.clip_refine import make_clip, render_window
from avatar_core.fit.config import FitConfig
from avatar_core.fit.deform import in_view
from avatar_core.fit.nodes import make_nodes
from avatar_core.fit.pictures import GRID, make_pictures, person_box
from avatar_core.fit.rig import bones, make_rig, orient, place, ride, subset
from avatar_core.fit.track import Track
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.layout import make_layout
from avatar_core.perception.tracks import TrackBinding
from avatar_core.template import load_template
from tests.fit.clip_scene import BUDGETS, scene


@pytest.fixture(scope="module")
def rig():
    template = load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    return make_rig(scene().canonical, layout, template, "face", make_nodes(template, layout, 40, 8, 20))


@pytest.fixture(scope="module")
def track(rig):
    frames, joints = 6, len(rig.skeleton.names)
    weights = torch.zeros(frames, len(rig.actions))
    return Track(
        torch.zeros(frames, joints, 3), torch.zeros(frames, 3), weights, scene().camera, torch.zeros(frames)
    )


def drawn(rig, track):
    transforms, quats = bones(rig, track.rotvecs[:1], track.translation[:1])
    base = place(rig, transforms, track.weights[:1], points=slice(0, rig.n_base))
    how = ride(rig, orient(rig, quats, track.weights[:1]))
    background = torch.zeros(3, track.camera.height, track.camera.width)
    return render_window(rig, base, how, rig.colors[None], track.camera, background)[0]


def test_what_is_hidden_is_left_out_and_the_picture_stays(rig, track):
    rig = replace(rig, scales=2 * rig.scales, opacities=torch.full_like(rig.opacities, 0.99))  # without holes
    keep = in_view(rig, track, 16)
    pixels, _ = track.camera.project(rig.rest[:, : rig.n_base].T.numpy())
    inside = ((pixels > 0) & (pixels < track.camera.width)).all(1)
    hidden = np.setdiff1d(np.flatnonzero(inside), keep)
    assert 0.1 * inside.sum() < len(hidden) < 0.8 * inside.sum()
    assert (drawn(subset(rig, keep), track) - drawn(rig, track)).abs().max() < 0.02


def test_the_head_is_held_where_nothing_of_it_is_seen(rig):
    below = np.flatnonzero(rig.skin[rig.skeleton.index("head")[0], : rig.n_base].numpy() < 0.5)
    torch.testing.assert_close(below_head(subset(rig, below)), below_head(rig))
    assert below_head(rig)[:, 0].min() < 0.05 and below_head(rig)[:, 0].max() > 0.95


def test_the_persons_box_holds_every_frames_mask_and_some_more():
    masks = np.zeros((2, 100, 80), np.uint8)
    masks[0, 30:50, 20:30], masks[1, 40:95, 25:41] = 255, 255
    left, top, width, height = person_box(masks)
    assert left % GRID == top % GRID == 0
    assert left <= 20 - 4 and top <= 30 - 6 and left + width >= 41 + 4 and top + height == 100
    assert width < 50


def test_a_part_of_the_picture_is_what_the_whole_shows_there(rig, track):
    s = scene()
    masks = np.zeros_like(s.masks)
    masks[:, 20:60, 30:50] = 255
    whole = make_pictures(s.frames, masks, s.xy, s.confidence, FitConfig().weights)
    binding = TrackBinding(np.zeros(0, np.int64), np.zeros((len(masks), 0, 2), np.float32))
    clip = make_clip(whole, s.camera, binding, s.xy, torch.ones(s.confidence.shape), 6.0)
    x, y, w, h = person_box(masks)
    assert clip.share == w * h / masks[0].size < 0.7
    torch.testing.assert_close(clip.pictures.target, whole.target[..., y : y + h, x : x + w])
    whole_picture = drawn(rig, track)[..., y : y + h, x : x + w]
    part = drawn(rig, replace(track, camera=clip.camera))
    torch.testing.assert_close(part, whole_picture, atol=1e-4, rtol=0)
