"""A step of the distillation with tiny published models as its score teachers: through the renderer into the generator."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.device import CPU
from avatar_core.distill.config import DistillConfig, DistillWeights
from avatar_core.distill.train import Student, rendered_terms, train_student
from avatar_core.particles.deformation import LocalFrames
from avatar_core.progress import silent
from avatar_core.score.clips import ScoreClip
from tests.distill.material import SIMPLE, copy_of
from tests.score.published import PACKAGES, doubled, tiny_backend

SHAPES = {"ltx2": (32, 9, (1, 4, 2, 1, 1)), "wan_s2v": (64, 8, (1, 16, 2, 8, 8))}  # px, frames, latents


@pytest.fixture(
    scope="module", params=[pytest.param(k, marks=pytest.mark.models(*p)) for k, p in PACKAGES.items()]
)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def seen(kind, material, tmp_path_factory):
    """The clips, in the size and with the sound as the teacher sees and hears them, and the teacher."""
    size, frames, _ = SHAPES[kind]
    backend = tiny_backend(kind, tmp_path_factory.mktemp(kind), frames, size)
    rng, larger = np.random.default_rng(0), size // 32
    clips = [
        replace(
            clip,
            view=replace(
                clip.view,
                Ks=clip.view.Ks * np.float32([[larger], [larger], [1]]),
                frames=np.repeat(np.repeat(clip.view.frames, larger, 1), larger, 2),
            ),
            log_mel=backend.hear(
                torch.from_numpy(rng.normal(size=640 * len(clip.motion.x)).astype(np.float32))
            ).numpy(),
        )
        for clip in material[4]
    ]
    shown = [ScoreClip(clip.view.frames, clip.log_mel) for clip in clips]
    made, _ = backend.train(shown, 0, tmp_path_factory.mktemp("work"), silent, CPU)
    return clips, backend.load(*made.tensors())


@pytest.mark.parametrize("variational", [False, True])
def test_a_step_moves_the_generator_and_the_decoder(material, seen, variational):
    canonical, layout, codec, generator, _ = material
    clips, teacher = seen
    codec, generator = copy_of(codec, generator)
    before = {k: v.clone() for k, v in {**generator.state_dict(), **codec.state_dict()}.items()}
    weights = DistillWeights(simple=0.0, vsd=1.0, trajectory=0.0, l1=0.0, arap=0.0)
    config = DistillConfig(steps=2, simple=SIMPLE, weights=weights, variational=variational, ema=0.5)
    generator, codec, history = train_student(
        clips, {"A": canonical}, layout, generator, codec, teacher, config
    )
    assert np.isfinite(history[-1]["vsd"]) and history[-1]["vsd"] > 0
    after = {**generator.state_dict(), **codec.state_dict()}
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert "dit.trunk.stem.weight" in moved and "regions.face.decoder_residual.2.weight" in moved


def test_what_the_rendered_pictures_are_told_is_the_slope_of_the_score(kind, material, seen, monkeypatch):
    """With the score held, the term is linear in x: each picture's gradient must be how fast that moves with the picture."""
    canonical, layout, codec, generator, _ = material
    clips, teacher = seen
    student = Student(*reversed(copy_of(codec, generator))).eval()
    config = DistillConfig(weights=DistillWeights(trajectory=0.0, arap=0.0), simple=SIMPLE)
    kept, encode = [], type(teacher).encode

    def remember(self, pictures):
        x = encode(self, pictures)
        if x.requires_grad:
            pictures.retain_grad()
            x.retain_grad()
            kept.append((pictures, x))
        return x

    monkeypatch.setattr(type(teacher), "encode", remember)
    person, rng = LocalFrames(canonical, layout), torch.Generator().manual_seed(3)
    rendered_terms(clips[0], person, student, teacher, None, config, rng)["vsd"].backward()
    pictures, x = kept[0]
    size, frames, latents = SHAPES[kind]
    assert pictures.shape == (1, frames, 3, size, size) and x.shape == latents
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in student.generator.parameters())
    exact = doubled(copy.deepcopy(teacher))
    with torch.no_grad():
        for seed in range(4):
            way = torch.randn(
                pictures.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
            )
            up, down = (encode(exact, pictures.double() + step * way) for step in (1e-5, -1e-5))
            slope = float((x.grad * (up - down)).sum() / 2e-5)
            assert float((pictures.grad * way).sum()) == pytest.approx(slope, rel=1e-3)
