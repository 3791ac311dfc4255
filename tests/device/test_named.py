"""Nothing is made without naming its device: with torch's default device without numbers, everything still runs on the CPU."""

from dataclasses import replace

import numpy as np
import torch

from avatar_core.audio.backends import AudioConfig
from avatar_core.device import Compute
from avatar_core.distill.config import DistillConfig
from avatar_core.distill.train import train_student
from avatar_core.embed.codec_fit import fit_codec
from avatar_core.embed.config import ContrastiveConfig
from avatar_core.embed.contrastive import retrieval_accuracy, train_embedding
from avatar_core.fit.config import FitConfig
from avatar_core.fit.deform import Observed, fit_clip, fit_clips
from avatar_core.generator.calibrate import calibrate_motion
from avatar_core.generator.config import MotionLossConfig, SampleConfig, TrainConfig
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import generate
from avatar_core.generator.train import train_generator
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.deformation import Deformation
from avatar_core.particles.layout import make_layout
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.personalise.config import PersonaliseConfig, RefineConfig
from avatar_core.personalise.refine import refine
from avatar_core.personalise.refine_together import Portrayed, refine_together
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from avatar_core.score.train import evaluate_score, train_score
from avatar_core.speak.render import moving_frames, render_motion
from avatar_core.speak.student import Student, load_student, save_student
from avatar_core.template import load_template
from tests.device.conftest import CAMERA, portrait
from tests.fit.clip_scene import BUDGETS, scene
from tests.motion.small import CODEC, MODEL

SCORE = ScoreConfig(size=32, frames=4, channels=[8, 8], audio_channels=8, heads=2, steps=2)
SIMPLE = MotionLossConfig(batch=4, window=24)
BF16 = Compute(bf16=True)


def finite(tensors):
    assert all(t.device.type == "cpu" and bool(torch.isfinite(t.float()).all()) for t in tensors)


def test_embed(person, clips, data, unnamed_is_nowhere):
    config = ContrastiveConfig(dims=16, steps=1, window=24, batch=4)
    with unnamed_is_nowhere():
        codec = fit_codec([c for _, c in clips], person[1], replace(CODEC, residual_steps=2))
        clip = clips[1][1]
        finite([codec.decode(codec.encode(clip.deformation)).mean_offset, codec.neutral()])
        embedding, history = train_embedding(data, codec, config)
        assert np.isfinite(history[0]["loss"]) and 0 <= retrieval_accuracy(embedding, data)["frame"] <= 1
        assert np.isfinite(train_embedding(data, codec, config, compute=BF16)[1][0]["loss"])


def test_generator(data, codec, unnamed_is_nowhere):
    config = TrainConfig(steps=1, batch=4, window=24)
    with unnamed_is_nowhere():
        generator, history = train_generator(data, codec, config, MODEL)
        calibrate_motion(generator, data[:2], data[2:], codec, SampleConfig(steps=2), 1)
        finite(generator.state_dict().values())
        finite([generate(generator, np.zeros(16000, np.float32), 1, SampleConfig(steps=2, guidance=2.0))])
        half = train_generator(data, codec, config, MODEL, compute=BF16)[1]
    assert half[0]["loss"] != history[0]["loss"]
    assert abs(half[0]["loss"] / history[0]["loss"] - 1) < 0.05


def test_score(score_clips, unnamed_is_nowhere):
    with unnamed_is_nowhere():
        model, history = train_score(score_clips, SCORE)
        finite(model.state_dict().values())
        assert all(np.isfinite(list(evaluate_score(model, score_clips, rounds=1).values())))
        reference, mel = (
            torch.zeros(1, 3, 32, 32, device="cpu"),
            torch.zeros(1, 4 * (4 + 8), 80, device="cpu"),
        )
        finite([model.sample(mel, reference, steps=2)])
        half = train_score(score_clips, SCORE, compute=BF16)[1]
    assert half[1]["loss"] != history[1]["loss"]  # the second step: the first has nothing to say yet
    assert abs(half[1]["loss"] / history[1]["loss"] - 1) < 0.05


def test_distill(large, data, codec, distill_clips, unnamed_is_nowhere):
    config = DistillConfig(steps=1, simple=SIMPLE, variational=True)
    with unnamed_is_nowhere():
        generator = train_generator(data[:2], codec, TrainConfig(steps=1, batch=4, window=24), MODEL)[0]
        with torch.device("cpu"):
            teacher = ScoreNetwork(SCORE).eval()
        for compute in (Compute(), BF16):
            _, _, history = train_student(
                distill_clips, {"A": large[0]}, large[1], generator, codec, teacher, config, compute=compute
            )
            assert history[0].keys() == {"loss", "simple", "arap", "trajectory", "l1", "vsd"}
            assert np.isfinite(list(history[0].values())).all()


def test_fit(unnamed_is_nowhere):
    layout, known = make_layout(ParticleBudgets(**BUDGETS), load_template()), scene()
    config = FitConfig(iterations=1, batch=4)
    with unnamed_is_nowhere():
        fitted = fit_clip(
            known.frames, known.masks, known.tracks, known.xy, known.confidence, known.canonical, layout,
            load_template(), "face", replace(config, track=replace(config.track, iterations=2)),
        )  # fmt: skip
    finite([fitted.deformation.mean_offset, fitted.deformation.rotation, fitted.deformation.color])
    assert fitted.frames.std() > 1


def test_personalise(unnamed_is_nowhere):
    """The refinement, whose steps are most of the time."""
    particles, view = portrait()
    config = RefineConfig(steps=1, sharp_steps=1)
    with unnamed_is_nowhere():
        for sharp in (False, True):
            refined = refine(
                particles, view, view.crop(20, 20, 40, 40), config, sharp=sharp, focus=(20, 20, 40)
            )
            assert np.isfinite(refined.means).all() and not np.array_equal(refined.colors, particles.colors)


def test_several_clips_and_portraits(unnamed_is_nowhere):
    layout, known = make_layout(ParticleBudgets(**BUDGETS), load_template()), scene()
    seen = Observed(
        known.frames, known.masks, known.tracks, known.xy, known.confidence, known.canonical, "face"
    )
    config = FitConfig(iterations=1, batch=4)
    config = replace(config, track=replace(config.track, iterations=2))
    particles, view = portrait()
    portraits = [Portrayed(particles, view, view.crop(20, 20, 40, 40)), Portrayed(particles, view, None)]
    with unnamed_is_nowhere():
        for fitted in fit_clips([seen, seen], layout, load_template(), config):
            finite([fitted.deformation.mean_offset, fitted.deformation.rotation, fitted.deformation.color])
        for refined in refine_together(portraits, RefineConfig(steps=1), names=["a", "b"]):
            assert np.isfinite(refined.means).all() and not np.array_equal(refined.colors, particles.colors)


def test_speak(large, data, codec, tmp_path, unnamed_is_nowhere):
    canonical, layout = large
    model = replace(MODEL, audio=AudioConfig(backend="phonemes").to_dict())
    sound = np.random.default_rng(1).normal(size=16000).astype(np.float32) * 0.1
    bands = AudioConfig(backend="phonemes").features.bands
    generator = Generator(replace(model, dit=replace(model.dit, mels=bands))).eval()
    made = Student(generator, codec, PersonaliseConfig(), PerceptionConfig(), SampleConfig(steps=2))
    with unnamed_is_nowhere():
        save_student(tmp_path / "student.safetensors", made, 1)
        student = load_student(tmp_path / "student.safetensors").to("cpu")
        x = generate(student.generator, sound, 0, student.sample)
        for transparent in (False, True):
            frames = np.concatenate(
                list(render_motion(student, canonical, layout, x, CAMERA, "full", transparent=transparent))
            )
            assert frames.shape == (25, 32, 32, 3 + transparent) and frames.std() > 1


def test_stance(unnamed_is_nowhere):
    layout, known = make_layout(ParticleBudgets(**BUDGETS), load_template()), scene()
    still = torch.zeros(2, known.canonical.n_base, 3)
    with unnamed_is_nowhere():
        frames = moving_frames(known.canonical, layout, "auto")
        splats = frames.compose(Deformation(still, still, still))
    assert (splats.means[0] - torch.from_numpy(known.canonical.means)).abs().max() < 1e-3
