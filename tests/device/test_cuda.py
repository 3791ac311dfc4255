"""On a GPU: every training, the fit and speaking give what they give on the CPU, within what other sums in another order give.

None of this was ever run: no GPU could be had. Dropout is off, since a GPU draws its own; everything else is drawn on the CPU.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from avatar_core.audio.backends import AudioConfig
from avatar_core.device import CPU, Compute
from avatar_core.distill.config import DistillConfig
from avatar_core.distill.train import train_student
from avatar_core.embed.codec_fit import fit_codec
from avatar_core.embed.config import ContrastiveConfig
from avatar_core.embed.contrastive import train_embedding
from avatar_core.fit.config import FitConfig
from avatar_core.fit.deform import Observed, fit_clip, fit_clips
from avatar_core.generator.config import MotionLossConfig, SampleConfig, TrainConfig
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import generate
from avatar_core.generator.train import train_generator
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.layout import make_layout
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.personalise.config import PersonaliseConfig, RefineConfig
from avatar_core.personalise.refine import refine
from avatar_core.personalise.refine_together import Portrayed, refine_together
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from avatar_core.score.train import train_score
from avatar_core.speak.render import render_motion
from avatar_core.speak.student import Student
from avatar_core.template import load_template
from tests.device.conftest import CAMERA, portrait
from tests.fit.clip_scene import BUDGETS, scene
from tests.motion.small import CODEC, MODEL

DEVICE = "cuda:0"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch sees none"),
]
CALM = replace(
    MODEL, dit=replace(MODEL.dit, dropout=0.0), refiner=replace(MODEL.refiner, dropout=0.0)
)  # without dropout
GPU, GPU_BF16 = Compute(DEVICE), Compute(DEVICE, bf16=True)
STEPS = 12


def losses(history):
    return np.array([row["loss"] for row in history])


def same_course(train, loose=0.1):
    """train(compute) -> history: the same losses on both devices, nearly the same in bf16."""
    cpu, gpu, half = (losses(train(compute)) for compute in (CPU, GPU, GPU_BF16))
    np.testing.assert_allclose(gpu, cpu, rtol=1e-2)
    np.testing.assert_allclose(gpu[0], cpu[0], rtol=1e-3)
    np.testing.assert_allclose(half, cpu, rtol=loose)


def test_embed(person, clips, data, codec):
    rows = [c for _, c in clips]
    ours, theirs = (
        fit_codec(rows, person[1], replace(CODEC, residual_steps=20), c).cpu() for c in (CPU, GPU)
    )
    deformation = rows[1].deformation
    back = [c.decode(c.encode(deformation)).mean_offset for c in (ours, theirs)]
    assert (back[0] - back[1]).abs().max() < 1e-4  # m
    config = ContrastiveConfig(dims=16, steps=STEPS, window=24, batch=4, dropout=0.0)
    same_course(lambda compute: train_embedding(data, codec, config, compute=compute)[1], 0.2)


def test_generator(data, codec):
    config = TrainConfig(steps=STEPS, batch=8, window=24)
    same_course(lambda compute: train_generator(data, codec, config, CALM, compute=compute)[1])


def test_sampling(data, codec):
    model = train_generator(data, codec, TrainConfig(steps=STEPS, batch=8, window=24), CALM)[0]
    sound = np.random.default_rng(0).normal(size=32000).astype(np.float32) * 0.1
    ours = generate(model, sound, 3, SampleConfig(guidance=2.0))
    theirs = generate(model.to(DEVICE), sound, 3, SampleConfig(guidance=2.0))
    assert (
        theirs.device == torch.device(DEVICE) and (theirs.cpu() - ours).abs().max() < 1e-2
    )  # of a deviation


def test_score(score_clips):
    config = ScoreConfig(size=32, frames=4, channels=[8, 8], audio_channels=8, heads=2, steps=STEPS)
    same_course(lambda compute: train_score(score_clips, config, compute=compute)[1])


@pytest.mark.parametrize("variational", [False, True])
def test_distill(large, data, codec, distill_clips, variational):
    pytest.importorskip("gsplat", reason="gsplat, which draws on CUDA, is not installed (extra `gpu`)")
    config = DistillConfig(
        steps=STEPS, simple=MotionLossConfig(batch=4, window=24), variational=variational, seed=1
    )
    start = train_generator(data[:2], codec, TrainConfig(steps=2, batch=4, window=24), CALM)[0].tensors()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = ScoreNetwork(
            ScoreConfig(size=32, frames=4, channels=[8, 8], audio_channels=8, heads=2)
        ).eval()

    def train(compute):
        generator, own = Generator.from_tensors(*start), type(codec).from_tensors(*codec.tensors())
        asked = teacher.copy()
        return train_student(
            distill_clips, {"A": large[0]}, large[1], generator, own, asked, config, compute=compute
        )[2]

    same_course(train)


def test_fit():
    pytest.importorskip("gsplat", reason="gsplat, which draws on CUDA, is not installed (extra `gpu`)")
    layout, known = make_layout(ParticleBudgets(**BUDGETS), load_template()), scene()
    ours, theirs = (
        fit_clip(
            known.frames, known.masks, known.tracks, known.xy, known.confidence, known.canonical, layout, load_template(),
            "face", FitConfig(iterations=6, batch=4), compute=compute,
        )
        for compute in (CPU, GPU)
    )  # fmt: skip
    apart = np.linalg.norm(ours.means - theirs.means, axis=-1)
    assert apart.mean() < 3e-4 and np.quantile(apart, 0.99) < 2e-3  # m
    assert abs(ours.metrics["psnr_foreground"] - theirs.metrics["psnr_foreground"]) < 0.5


def test_fit_of_several_clips():
    pytest.importorskip("gsplat", reason="gsplat, which draws on CUDA, is not installed (extra `gpu`)")
    layout, known = make_layout(ParticleBudgets(**BUDGETS), load_template()), scene()
    arrays = (known.frames, known.masks, known.tracks, known.xy, known.confidence)
    seen = [
        Observed(*(a[cut].copy() for a in arrays), known.canonical, "face")
        for cut in (slice(None), slice(None, 0, -1))
    ]
    config = FitConfig(iterations=6, batch=4)
    alone = [fit_clips([one], layout, load_template(), config)[0] for one in seen]
    for ours, theirs in zip(
        alone, fit_clips(seen, layout, load_template(), config, compute=GPU), strict=True
    ):
        apart = np.linalg.norm(ours.means - theirs.means, axis=-1)
        assert apart.mean() < 3e-4 and np.quantile(apart, 0.99) < 2e-3  # m


def test_personalise_of_several_portraits():
    pytest.importorskip("gsplat", reason="gsplat, which draws on CUDA, is not installed (extra `gpu`)")
    particles, view = portrait()
    portraits = [
        Portrayed(particles, view, view.crop(20, 20, 40, 40)),
        Portrayed(particles, view.crop(8, 4, 80, 72), None),
    ]
    config = RefineConfig(steps=10)
    together = refine_together(portraits, config, names=["a", "b"], compute=GPU)
    for p, theirs in zip(portraits, together, strict=True):
        ours = refine(p.particles, p.view, p.face_view, config)
        assert np.abs(ours.means - theirs.means).mean() < 1e-4
        assert np.abs(ours.colors - theirs.colors).mean() < 0.02


def test_personalise():
    pytest.importorskip("gsplat", reason="gsplat, which draws on CUDA, is not installed (extra `gpu`)")
    particles, view = portrait()
    ours, theirs = (
        refine(particles, view, view.crop(20, 20, 40, 40), RefineConfig(steps=10), compute=compute)
        for compute in (CPU, GPU)
    )
    assert (
        np.abs(ours.means - theirs.means).mean() < 1e-4 and np.abs(ours.colors - theirs.colors).mean() < 0.02
    )


def test_speak(large, data, codec):
    pytest.importorskip("gsplat", reason="gsplat, which draws on CUDA, is not installed (extra `gpu`)")
    canonical, layout = large
    bands = AudioConfig(backend="phonemes").features.bands
    model = replace(CALM, audio=AudioConfig(backend="phonemes").to_dict(), dit=replace(CALM.dit, mels=bands))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(model).eval()
    student = Student(
        generator,
        type(codec).from_tensors(*codec.tensors()),
        PersonaliseConfig(),
        PerceptionConfig(),
        SampleConfig(steps=2),
    )
    sound = np.random.default_rng(1).normal(size=16000).astype(np.float32) * 0.1

    def video(device):
        x = generate(student.to(device).generator, sound, 0, student.sample)
        return np.concatenate(list(render_motion(student, canonical, layout, x, CAMERA, "full"))).astype(int)

    difference = np.abs(video("cpu") - video(DEVICE))
    assert difference.mean() < 1 and np.quantile(difference, 0.99) <= 8  # of 255


@pytest.mark.slow
def test_the_smoke_profile_from_end_to_end(clone):
    pytest.importorskip("gsplat", reason="gsplat, which draws on CUDA, is not installed (extra `gpu`)")
    project = clone("cuda")
    assert project.run("python", "-m", "stages", "profile", "use", "smoke").returncode == 0
    params = project.root / "params.yaml"
    params.write_text(
        params.read_text()
        .replace("device: cpu", "device: cuda")
        .replace("precision: fp32", "precision: bf16")
    )
    done = project.run("dvc", "repro", timeout=1800)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    assert lock["generator"]["params"]["params.yaml"]["run.device"] == "cuda"
