"""The `cuda` backend without a GPU: gsplat's own rendering function, with its torch code in place of its kernels, in whole steps.

Our call, gsplat's checks of it and its batches run as on a GPU; projection and blending are gsplat's torch code, made to run on the
CPU by `benchmarks.gsplat_cpu`. Needs the package gsplat 1.5.3, whose kernels are not needed: `pip install gsplat==1.5.3 --no-deps`.
"""

import sys
import types

import numpy as np
import pytest
import torch

from avatar_core.distill import train as distill
from avatar_core.distill.config import DistillConfig, DistillWeights
from avatar_core.fit import clip_refine, together
from avatar_core.fit.align import displaced
from avatar_core.fit.config import FitConfig
from avatar_core.fit.pictures import make_pictures
from avatar_core.fit.rig import make_rig
from avatar_core.fit.track import Track, keypoint_weights, make_curves
from avatar_core.generator.config import MotionLossConfig, TrainConfig
from avatar_core.generator.train import train_generator
from avatar_core.particles import splats
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.deformation import LocalFrames
from avatar_core.particles.layout import make_layout
from avatar_core.perception.tracks import TrackBinding
from avatar_core.render import cuda, rasterize
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from avatar_core.template import load_template
from benchmarks import gsplat_cpu
from tests.fit.clip_scene import BUDGETS, FRAMES, scene
from tests.motion.small import MODEL

pytestmark = pytest.mark.skipif(gsplat_cpu.missing() is not None, reason=str(gsplat_cpu.missing()))


@pytest.fixture
def on_gsplat(monkeypatch):
    """on_gsplat() -> calls: from now on pictures are drawn by the backend cuda, on the CPU."""
    import gsplat.cuda._torch_impl as theirs
    import gsplat.rendering as rendering

    nerfacc = types.ModuleType("nerfacc")
    vars(nerfacc).update(
        render_weight_from_alpha=gsplat_cpu._weights, accumulate_along_rays=gsplat_cpu._accumulate
    )
    calls = []

    def project(
        means,
        covars,
        quats,
        scales,
        viewmats,
        Ks,
        width,
        height,
        *,
        eps2d,
        packed,
        near_plane,
        far_plane,
        **more,
    ):
        assert not packed and not more["sparse_grad"] and not more["calc_compensations"]
        covariances, _ = theirs._quat_scale_to_covar_preci(quats, scales, True, False)
        calls.append(tuple(means.shape))
        return theirs._fully_fused_projection(
            means, covariances, viewmats, Ks, width, height, eps2d, near_plane, far_plane
        )

    kept = {}

    def tiles(means2d, radii, depths, *_, **__):
        kept["depths"] = depths
        return None, torch.zeros(0), torch.zeros(0)

    def blend(means2d, conics, colors, opacities, width, height, *_, **__):
        lead, n = means2d.shape[:-2], means2d.shape[-2]
        flat = [t.reshape(-1, n, t.shape[-1]) for t in (means2d, conics, colors)]
        rows = zip(*flat, opacities.reshape(-1, n), kept["depths"].reshape(-1, n), strict=True)
        drawn = []
        for m, c, color, o, d in rows:
            front = torch.where(d > 0, o, 0.0)  # what is not before the camera was culled
            at, pixels = gsplat_cpu._pairs(m, c, front, d, width, height)
            one = theirs.accumulate(
                m[None], c[None], o[None], color[None], at, pixels, torch.zeros_like(at), width, height
            )
            drawn.append([part[0] for part in one])
        images, alphas = (torch.stack(part) for part in zip(*drawn, strict=True))
        return images.reshape(*lead, height, width, -1), alphas.reshape(*lead, height, width, 1)

    def switch():
        monkeypatch.setitem(sys.modules, "nerfacc", nerfacc)
        monkeypatch.setattr(cuda, "_card", lambda batch: torch.device("cpu"))
        monkeypatch.setattr(rendering, "fully_fused_projection", project)
        monkeypatch.setattr(rendering, "isect_tiles", tiles)
        monkeypatch.setattr(rendering, "isect_offset_encode", lambda _, *sizes: torch.zeros(sizes))
        monkeypatch.setattr(rendering, "rasterize_to_pixels", blend)
        monkeypatch.setattr(splats, "rasterize", lambda *a, **k: rasterize(*a, backend="cuda", **k))
        return calls

    return switch


def test_a_fit_step_has_the_gradients_of_our_kernel(on_gsplat):
    ours = _fit_step()
    calls = on_gsplat()
    theirs = _fit_step()
    assert [shape[0] for shape in calls] == [3, 3]  # two windows of three frames, each one call
    _same(ours, theirs)


def test_a_fit_step_of_two_clips_has_the_gradients_of_each_alone(on_gsplat):
    config, cuts = FitConfig(batch=4, iterations=1), (slice(None), slice(FRAMES, 0, -1))
    parts = list(zip(*map(_fit_parts, cuts), strict=True))

    def gradients(motions):
        return [[value.grad for value in motion.parameters()[3:]] for motion in motions]

    alone = gradients([clip_refine.refine_clip(*_fit_parts(cut), config) for cut in cuts])
    ours = gradients(together.refine_clips(*parts, config))
    calls = on_gsplat()
    theirs = gradients(together.refine_clips(*parts, config))
    assert [shape[0] for shape in calls] == [FRAMES, FRAMES - 1]  # a clip, one call
    for one, our, their in zip(alone, ours, theirs, strict=True):
        for a, b, c in zip(one, our, their, strict=True):
            assert (a - b).norm() < 1e-4 * a.norm() + 1e-9 and (a - c).norm() < 1e-3 * a.norm() + 1e-8


def _fit_parts(cut=slice(None)):
    """(rig, curves, track, clip) of the scene's frames."""
    known, template = scene(), load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    rig = make_rig(known.canonical, layout, template, "face")
    rig = displaced(rig, torch.full((len(rig.node_rest), 3), 2e-3))
    config = FitConfig(batch=4)
    frames, masks, xy, sure = (v[cut].copy() for v in (known.frames, known.masks, known.xy, known.confidence))
    pictures = make_pictures(frames, masks, xy, sure, config.weights)
    weight = keypoint_weights(sure, config.track)
    curves = make_curves(rig, len(xy), config.track)
    rotvecs, translation = (value.detach() for value in curves())
    track = Track(rotvecs, translation, torch.zeros(len(xy), 52), known.camera, weight)
    binding = TrackBinding(np.zeros(0, np.int64), np.zeros((len(xy), 0, 2), np.float32))
    return (
        rig,
        curves,
        track,
        clip_refine.make_clip(pictures, track.camera, binding, xy, weight, config.cutoff_hz),
    )


def _fit_step():
    (rig, curves, track, clip), config = _fit_parts(), FitConfig(batch=4)
    nodes = len(rig.node_rest)
    leaves = [
        torch.zeros(FRAMES, *shape, requires_grad=True) for shape in ((52,), (nodes, 3), (nodes, 3), (nodes,))
    ]
    motion = clip_refine.Motion(curves, *leaves)
    loss = clip_refine.backward(rig, motion, track, clip, config, {})
    return loss, [p.grad for p in motion.parameters()]


def test_a_distill_step_has_the_gradients_of_our_kernel(on_gsplat, large, data, codec, distill_clips):
    generator = train_generator(data[:2], codec, TrainConfig(steps=2, batch=4, window=24), MODEL)[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = ScoreNetwork(
            ScoreConfig(size=32, frames=4, channels=[8, 8], audio_channels=8, heads=2)
        ).eval()

    def step():
        own = type(codec).from_tensors(*codec.tensors())
        student = distill.Student(type(generator).from_tensors(*generator.tensors()), own).eval()
        config = DistillConfig(weights=DistillWeights(vsd=1.0), simple=MotionLossConfig(batch=4, window=24))
        terms = distill.rendered_terms(
            distill_clips[0],
            LocalFrames(*large),
            student,
            teacher,
            None,
            config,
            torch.Generator().manual_seed(3),
        )
        loss = terms["l1"] + terms["vsd"]
        loss.backward()
        trained = [*student.generator.parameters(), *distill.decoder_parameters(own)]
        return loss.detach(), [p.grad for p in trained if p.grad is not None]

    ours = step()
    calls = on_gsplat()
    theirs = step()
    assert [shape[0] for shape in calls] == [4]  # the frames of a step, one call
    _same(ours, theirs)


def test_one_person_before_many_cameras_is_one_set_of_splats(on_gsplat, large):
    canonical, _ = large
    still = canonical.splats()
    viewmats = torch.eye(4).repeat(3, 1, 1)
    viewmats[:, :3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    viewmats[:, :3, 3] = torch.tensor([[0, 1.2, 2.2], [0.1, 1.2, 2.2], [0, 1.3, 2.0]])
    K = torch.tensor([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]])
    given = (still.means, still.quats, still.scales, still.opacities, still.colors, viewmats, K, 32, 32)
    backdrop = torch.tensor([0.2, 0.4, 0.6])
    ours = rasterize(*given, background=backdrop, return_depth=True)
    calls = on_gsplat()
    theirs = rasterize(*given, background=backdrop, return_depth=True, backend="cuda")
    assert calls == [(len(still.means), 3)]
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() < 2e-3
    assert ours[1].max() > 0.5


def _same(ours, theirs):
    """Loss and gradients, within what float32 and a threshold at 1/255 allow."""
    assert abs(ours[0] - theirs[0]) < 1e-4 * abs(ours[0])
    assert len(ours[1]) == len(theirs[1]) > 3
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert (a - b).norm() < 1e-3 * a.norm() + 1e-8, (tuple(a.shape), float((a - b).norm() / a.norm()))
