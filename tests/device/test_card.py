"""What runs on a GPU takes nothing there but its batch, and reads nothing back: shown with torch's device without numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.audio.backends import AudioConfig
from avatar_core.device import Compute
from avatar_core.distill import train as distill
from avatar_core.distill.config import DistillConfig
from avatar_core.embed import contrastive
from avatar_core.embed.config import ContrastiveConfig
from avatar_core.fit import clip_refine, together
from avatar_core.fit.adam import FlooredAdam
from avatar_core.fit.align import align
from avatar_core.fit.config import FitConfig, SkeletonTrackConfig
from avatar_core.fit.pictures import make_pictures
from avatar_core.fit.rig import make_rig
from avatar_core.fit.track import Track, keypoint_weights, make_curves, track_clip
from avatar_core.generator import train as generator_train
from avatar_core.generator.config import MotionLossConfig, TrainConfig
from avatar_core.generator.model import Generator
from avatar_core.networks.diffusion import add_noise
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.deformation import LocalFrames
from avatar_core.particles.layout import make_layout
from avatar_core.particles.stance import StanceFrames
from avatar_core.perception.tracks import TrackBinding
from avatar_core.personalise import refine, refine_together
from avatar_core.personalise.config import RefineConfig
from avatar_core.score import train as score_train
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from avatar_core.template import load_template
from tests.device.conftest import flat_picture, portrait
from tests.fit.clip_scene import BUDGETS, FRAMES, scene
from tests.motion.small import MODEL

CARD = Compute("meta")
SCORE = ScoreConfig(size=32, frames=4, channels=[8, 8], audio_channels=8, heads=2, steps=9)
READS = 3  # steps, see conftest


@pytest.fixture
def watched(card, monkeypatch):
    """watched(module, train): run `train` with the loop of its module watched, to its first reading of losses."""

    def run(module, train):
        loop, steps = module.run_loop, []

        def watched_loop(settings, model, optimizer, rng, losses, **more):
            zero = torch.zeros(1, 1, 1, device="meta")
            add_noise(
                zero, zero, torch.zeros(1, dtype=torch.int64, device="meta")
            )  # its schedule is kept there

            def counted():
                steps.append(1)
                return losses()

            with card:
                return loop(settings, model, optimizer, rng, counted, **more)

        monkeypatch.setattr(module, "run_loop", watched_loop)
        with pytest.raises((NotImplementedError, RuntimeError), match=r"meta|tolist|scalar"):
            train()
        assert len(steps) == READS
        return card

    return run


def test_embed(watched, data, codec):
    config = ContrastiveConfig(dims=16, steps=9, window=24, batch=4)
    traffic = watched(contrastive, lambda: contrastive.train_embedding(data, codec, config, compute=CARD))
    assert (traffic.in_batch, traffic.beside) == (2 * READS, 0)


def test_generator(watched, data, codec, monkeypatch):
    for once in ("fit_linear", "fit_closure"):  # before the loop
        monkeypatch.setattr(generator_train, once, lambda *_: None)
    config = TrainConfig(steps=9, batch=4, window=24)
    traffic = watched(
        generator_train, lambda: generator_train.train_generator(data, codec, config, MODEL, compute=CARD)
    )
    assert (traffic.in_batch, traffic.beside) == (8 * READS, 0)


def test_score(watched, score_clips):
    traffic = watched(score_train, lambda: score_train.train_score(score_clips, SCORE, compute=CARD))
    assert (traffic.in_batch, traffic.beside) == (6 * READS, 0)


@pytest.mark.parametrize("variational", [False, True])
def test_distill(watched, large, codec, distill_clips, variational):
    config = DistillConfig(
        steps=9, simple=MotionLossConfig(batch=4, window=24), variational=variational, checkpoint_every=99
    )
    codec = type(codec).from_tensors(*codec.tensors())
    traffic = watched(
        distill,
        lambda: distill.train_student(
            distill_clips, {"A": large[0]}, large[1], Generator(MODEL), codec, ScoreNetwork(SCORE), config, compute=CARD
        ),
    )  # fmt: skip
    # windows, frames of a clip, tracks, pictures, sound and reference, score draws, the camera's two matrices
    assert traffic.in_batch == (8 + 5 + 2 + 2 + 2 + 2 + 2 + 2 * variational) * READS
    assert traffic.beside == 0


@pytest.fixture
def dense_blends(monkeypatch):
    """torch has no sparse tensors without numbers."""
    monkeypatch.setattr(
        "avatar_core.fit.blend._csr", lambda matrix, device: torch.empty(matrix.shape, device=device)
    )


def fit_parts(cut=slice(None)):
    """(rig, curves, track, clip, xy, confidence, weight, pictures) of the scene's frames, on the card."""
    known, template = scene(), load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    rig = make_rig(known.canonical, layout, template, "face").to("meta")
    config = FitConfig(batch=4)
    frames, masks, xy, confidence = (v[cut] for v in (known.frames, known.masks, known.xy, known.confidence))
    pictures = make_pictures(frames, masks, xy, confidence, config.weights).to("meta")
    weight = keypoint_weights(confidence, config.track).to("meta")
    curves = make_curves(rig, len(xy), config.track)
    rotvecs, translation = (value.detach() for value in curves())
    track = Track(rotvecs, translation, torch.zeros(len(xy), 52, device="meta"), known.camera, weight)
    particles = np.arange(0, rig.n_base, 50)
    binding = TrackBinding(particles, np.zeros((len(xy), len(particles), 2), np.float32))
    clip = clip_refine.make_clip(pictures, known.camera, binding, xy, weight, config.cutoff_hz)
    return rig, curves, track, clip, xy, confidence, weight, pictures


def test_fit(card, monkeypatch, dense_blends):
    rig, curves, track, clip, xy, confidence, weight, pictures = fit_parts()
    config, camera = FitConfig(batch=4), scene().camera
    motion = clip_refine.Motion(
        curves,
        *(
            torch.zeros(FRAMES, *shape, device="meta", requires_grad=True)
            for shape in ((52,), (len(rig.node_rest), 3), (len(rig.node_rest), 3), (len(rig.node_rest),))
        ),
    )
    clip_refine.backward(rig, motion, track, clip, config, {})  # what is kept for the clip is made now
    optimizer = FlooredAdam(motion.parameters(), [0.1] * 7)
    card.in_batch = card.beside = 0
    with card:
        optimizer.clear()
        clip_refine.backward(rig, motion, track, clip, config, {})
        optimizer.step()
    assert (card.in_batch, card.beside) == (0, 0)
    assert align(rig, track, pictures, xy, weight, True).device.type == "meta"

    taken = count_steps(monkeypatch, FlooredAdam)
    settings = SkeletonTrackConfig(iterations=3)
    with pytest.raises((NotImplementedError, RuntimeError), match=r"meta|scalar|item"):  # checked at its end
        track_clip(rig, xy, confidence, camera, settings)
    assert len(taken) == settings.iterations


def test_fit_of_several_clips(card, monkeypatch, dense_blends):
    parts = [fit_parts(), fit_parts(slice(1, None))]
    rigs, curves, tracks, clips, xys, confidences, weights, pictures = zip(*parts, strict=True)
    config = FitConfig(batch=4, iterations=4)
    finite = torch.ones((), dtype=torch.bool, device="cpu")
    # whether all is finite is read once a step
    monkeypatch.setattr(FlooredAdam, "finite", lambda self: finite)
    done = []

    def progress(step, *_):
        if not done:
            card.in_batch = card.beside = 0  # all before was made for the whole refinement
        done.append(step)

    with card:
        motions = together.refine_clips(rigs, curves, tracks, clips, config, progress)
    assert len(done) == 4 and (card.in_batch, card.beside) == (0, 0)
    assert [tuple(m.shift.shape[:1]) for m in motions] == [(FRAMES,), (FRAMES - 1,)]
    shifts = together.align_clips(rigs, tracks, pictures, xys, weights, True)
    assert [s.device.type for s in shifts] == ["meta"] * 2

    taken = count_steps(monkeypatch, FlooredAdam)
    settings = SkeletonTrackConfig(iterations=3)
    with pytest.raises((NotImplementedError, RuntimeError), match=r"meta|scalar|item"):  # checked at its end
        together.track_clips(rigs, xys, confidences, [scene().camera] * 2, settings)
    assert len(taken) == settings.iterations


def count_steps(monkeypatch, optimizer=torch.optim.Adam):
    """A list that grows with every step of Adam."""
    taken, step = [], optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda *a, **k: (taken.append(1), step(*a, **k)))
    return taken


def test_personalise(card, monkeypatch):
    particles, view = portrait()
    monkeypatch.setattr(refine, "contribution", lambda *_: torch.ones(len(particles.means)))
    drawn, render = [], refine.render

    def watched(*arguments):
        if not drawn:
            card.beside = 0  # all before was made for the whole refinement
        drawn.append(1)
        return render(*arguments)

    monkeypatch.setattr(refine, "render", watched)
    close = view.crop(20, 20, 40, 40)
    with card, pytest.raises(RuntimeError, match="meta"):  # whether all is finite is read once a step
        refine.refine(particles, view, close, RefineConfig(steps=2), compute=CARD)
    assert len(drawn) == 2 and card.beside == 0


def test_personalise_of_several_portraits(card, monkeypatch):
    particles, view = portrait()
    monkeypatch.setattr(refine, "contribution", lambda *_: torch.ones(len(particles.means)))
    drawn = []

    def watched(*arguments, **named):
        if not drawn:
            card.beside = 0  # all before was made for the whole refinement
        drawn.append(1)
        return flat_picture(*arguments, **named)

    monkeypatch.setattr(refine_together, "rasterize", watched)
    portraits = [
        refine_together.Portrayed(particles, view, view.crop(20, 20, 40, 40)),
        refine_together.Portrayed(particles, view.crop(8, 4, 80, 72), None),
    ]
    with card, pytest.raises((RuntimeError, NotImplementedError), match=r"meta|tolist"):  # once a step
        refine_together.refine_together(portraits, RefineConfig(steps=2), names=["a", "b"], compute=CARD)
    assert len(drawn) == 2 and card.beside == 0


def test_speak(card, large, codec):
    canonical, layout = large
    codec = type(codec).from_tensors(*codec.tensors()).to("meta")
    frames = LocalFrames(canonical, layout, "meta")
    with card, torch.no_grad():
        splats = frames.compose(codec.decode(torch.zeros(5, codec.dims, device="meta"), 1.7))
    assert splats.means.device.type == "meta" and (card.in_batch, card.beside) == (0, 0)


def test_stance(card):
    known, template = scene(), load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    frames = StanceFrames(known.canonical, layout, np.full(2, 0.5), "meta")
    local = LocalFrames(known.canonical, layout, "meta")
    still = torch.zeros(3, known.canonical.n_base, 3, device="meta")
    with card, torch.no_grad():
        deformation = local.decompose(still, torch.cat([still, still[..., :1]], -1))
        splats = frames.compose(replace(deformation, color=still))
    assert splats.means.device.type == "meta" and (card.in_batch, card.beside) == (0, 0)


def test_the_encoder_of_sound_follows_the_sound(card):
    features = AudioConfig(backend="phonemes").features
    heard = features.hear(torch.zeros(16000, device="meta"))
    assert heard.shape == (100, features.bands) and heard.device.type == "meta"
