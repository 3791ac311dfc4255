"""Several clips in common steps come out as one after the other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.errors import UserError
from avatar_core.fit import losses
from avatar_core.fit.blend import SparseBlend
from avatar_core.fit.config import FitConfig, SkeletonTrackConfig
from avatar_core.fit.deform import Observed, fit_clips
from avatar_core.fit.nodes import make_nodes
from avatar_core.fit.rig import make_rig, subset
from avatar_core.fit.several import Parameters, Several
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.layout import make_layout
from avatar_core.template import load_template
from tests.fit.clip_scene import BUDGETS, FRAMES, scene

CONFIG = FitConfig(iterations=4, batch=4, track=SkeletonTrackConfig(iterations=30))


@pytest.fixture(scope="module")
def parts():
    template = load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    return layout, template, make_nodes(template, layout, 40, 8, 20)


def clip(frames=slice(None), **changes):
    """Some of the scene's frames, with tracks on its nose."""
    s = scene()
    tracks = s.xy[:, 40:60].copy()
    cut = (a[frames].copy() for a in (s.frames, s.masks, tracks, s.xy, s.confidence))
    return replace(Observed(*cut, s.canonical, "face"), **changes)


def test_clips_of_two_lengths_and_people_come_out_as_one_by_one(parts):
    layout, template, nodes = parts
    other = replace(scene().canonical, colors=scene().canonical.colors[:, ::-1].copy())
    clips = [clip(), clip(slice(FRAMES, 0, -1), canonical=other, filmed_from=2.0)]
    assert len(clips[1].frames) < len(clips[0].frames)
    alone = [fit_clips([c], layout, template, CONFIG, nodes=nodes)[0] for c in clips]
    together = fit_clips(clips, layout, template, CONFIG, nodes=nodes)
    for one, many in zip(alone, together, strict=True):
        assert one.means.shape == many.means.shape
        apart = np.linalg.norm(one.means - many.means, axis=-1)
        assert apart.mean() < 3e-5 and apart.max() < 5e-4  # m
        for name in ("rotvecs", "translation", "actions", "displacement"):
            a, b = getattr(one.pose, name), getattr(many.pose, name)
            assert np.abs(a - b).max() < 5e-3 * (np.abs(a).max() + 0.1), name
        assert abs(one.metrics["psnr"] - many.metrics["psnr"]) < 0.1
        np.testing.assert_allclose(many.confidence, one.confidence, atol=1e-3)
    assert np.abs(alone[0].means[:5] - alone[1].means).max() > 1e-3  # they are not all the same


def test_clips_that_do_not_go_together_are_refused(parts):
    layout, template, nodes = parts
    with pytest.raises(UserError, match="face and 5 frames"):
        fit_clips([clip(), clip(slice(0, 3))], layout, template, CONFIG, nodes=nodes)
    with pytest.raises(UserError, match="waist_up"):
        fit_clips([clip(), clip(framing="waist_up")], layout, template, CONFIG, nodes=nodes)


def test_frames_that_fill_up_do_not_count():
    values = torch.arange(24.0).view(8, 3).sin()
    real = torch.tensor([1.0] * 5 + [0.0] * 3)
    for k in (0, 1, 2):
        own, filled = values[:5].diff(n=k, dim=0), values.diff(n=k, dim=0)
        assert losses.frame_mean(filled, real).item() == pytest.approx(losses.frame_mean(own).item())


def test_a_blend_of_several_is_each_ones_own(parts):
    layout, template, nodes = parts
    rig = make_rig(scene().canonical, layout, template, "face", nodes)
    a, b = rig.blend.rows(np.arange(0, 50)), rig.blend.rows(np.arange(100, 150))
    assert isinstance(a, SparseBlend)
    dense = torch.rand(
        2, len(nodes.particles), 7, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    both = torch.vmap(a.beside([b]))(dense)
    for k, one in enumerate((a, b)):
        assert torch.allclose(both[k], one(dense[k]))
        (slope,) = torch.autograd.grad(one(dense[k]).square().sum(), dense)
        (other,) = torch.autograd.grad(both[k].square().sum(), dense, retain_graph=True)
        assert torch.allclose(slope, other)


def test_a_rig_of_fewer_particles_is_filled_up(parts):
    layout, template, nodes = parts
    rig = make_rig(scene().canonical, layout, template, "face", nodes)
    small = subset(rig, np.arange(0, rig.n_base, 2))
    several = Several([small, rig], [3, 5])
    assert several.real.sum(1).tolist() == [3, 5]
    rest = several.each(lambda rig, shift: rig.rest + shift[:, None], torch.zeros(2, 3))
    assert torch.equal(rest[0][:, : small.n_base], small.rest[:, : small.n_base])
    assert torch.equal(rest[0][:, rig.n_base :], small.rest[:, small.n_base :])  # the keypoints
    assert torch.equal(rest[1], rig.rest)


def test_every_clip_learns_its_own_part_of_the_parameters():
    parameters = Parameters([[torch.ones(2, 3)], [torch.full((4, 3), 2.0)]])
    (parameters.all[0] ** 2).sum().backward()
    parameters.share_gradients()
    (a,), (b,) = parameters.own
    assert a.grad.shape == (2, 3) and (a.grad == 2).all() and (b.grad == 4).all()
    with torch.no_grad():
        b.add_(1)
    assert parameters.all[0][1].eq(3).all() and parameters.all[0][0, :2].eq(1).all()
