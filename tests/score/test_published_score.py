"""Score teachers `ltx2`, `wan_s2v` with tiny models of the published classes: velocity and eps, guidance, gradients, the stage."""

import copy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

from avatar_core.device import CPU
from avatar_core.distill.losses import vsd_loss
from avatar_core.io.checkpoints import load_checkpoint
from avatar_core.progress import silent
from stages import score as stage_score
from stages.common import Stage
from stages.params import parse_params
from tests.score.filmed import film
from tests.score.published import PACKAGES, asked, doubled, noise_clips, tiny_backend

ROOT = Path(__file__).resolve().parents[2]
FRAMES = {"ltx2": 17, "wan_s2v": 20}  # three and four latents
LATENTS = {"ltx2": (1, 4, 3, 2, 2), "wan_s2v": (1, 16, 4, 8, 8)}


@pytest.fixture(
    scope="module", params=[pytest.param(k, marks=pytest.mark.models(*p)) for k, p in PACKAGES.items()]
)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def backend(kind, tmp_path_factory):
    return tiny_backend(kind, tmp_path_factory.mktemp(kind), FRAMES[kind])


@pytest.fixture(scope="module")
def clips(backend):
    return noise_clips(backend)


@pytest.fixture(scope="module")
def teacher(backend, clips, tmp_path_factory):
    """Prompts by the score stage's `train`, weights by distill's `load`, in double precision for differences."""
    made, history = backend.train(clips, 0, tmp_path_factory.mktemp("work"), silent, CPU)
    assert history == []
    return doubled(backend.load(*made.tensors()))


def again(backend, teacher, checkpointing):
    """The same teacher that keeps all, or computes some twice."""
    tensors, about = teacher.tensors()
    return doubled(replace(backend, checkpointing=checkpointing).load(tensors, about))


def test_the_velocity_becomes_the_noise_of_the_papers_form(kind, teacher, clips):
    frames, timesteps, mel, reference, rng = asked(clips, teacher.frames)
    x = teacher.encode(frames)
    assert x.shape == LATENTS[kind]
    alpha, sigma = teacher.alpha_sigma(timesteps)
    assert float(alpha) == pytest.approx(0.399) and float(sigma) == pytest.approx(0.601)
    noisy = alpha * x + sigma * torch.randn(x.shape, generator=rng)
    with torch.no_grad():
        eps = teacher.predict(noisy, timesteps, mel, reference)
        v = teacher.guided(noisy, timesteps, mel, reference, teacher.text_guidance, 1.0)
    assert torch.allclose((noisy - sigma * eps) / alpha, noisy - sigma * v, atol=1e-6)  # one clean x by both
    assert torch.allclose((noisy - sigma * v)[:, :, :1], teacher.encode(reference[:, None]), atol=1e-6)


def test_guidance_moves_away_from_the_negative_prompt_and_from_silence(teacher, clips):
    frames, timesteps, mel, reference, rng = asked(clips, teacher.frames)
    with torch.no_grad():
        noisy = torch.randn(teacher.encode(frames).shape, generator=rng, dtype=torch.float64)
        alpha, sigma = teacher.alpha_sigma(timesteps)
        first, sound = teacher.encode(reference[:, None]), teacher.heard(teacher._middle(mel))
        both, text, silent_ = (
            teacher.velocity(noisy, sigma.flatten(), first, sound, t, s)
            for t, s in ((True, True), (False, True), (True, False))
        )
        expected = both + (teacher.text_guidance - 1) * (both - text) + 0.5 * (both - silent_)
        eps = teacher.predict(noisy, timesteps, mel, reference, guidance=1.5)
    assert torch.allclose(eps[:, :, 1:], (noisy + alpha * expected)[:, :, 1:], atol=1e-9)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_score_distillation_reaches_the_frames_through_the_autoencoder(
    backend, teacher, clips, checkpointing
):
    frames, timesteps, mel, reference, rng = asked(clips, teacher.frames)
    teacher = again(backend, teacher, checkpointing)
    frames.requires_grad_()
    x = teacher.encode(frames)
    noise = torch.randn(x.shape, generator=rng, dtype=torch.float64)
    vsd_loss(x, teacher, mel, reference, timesteps, noise, guidance=1.5).backward()
    alpha, sigma = teacher.alpha_sigma(timesteps)
    with torch.no_grad():
        moved = sigma**2 * (
            teacher.predict(alpha * x + sigma * noise, timesteps, mel, reference, 1.5) - noise
        )

        def told(pictures):
            return float((moved * alpha * teacher.encode(pictures)).sum() / x.numel())

        for seed in range(3):
            way = torch.randn(
                frames.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
            )
            difference = (told(frames + 1e-5 * way) - told(frames - 1e-5 * way)) / 2e-5
            assert float((frames.grad * way).sum()) == pytest.approx(difference, rel=1e-5)
    assert frames.grad.abs().max() > 1e-6 and all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_second_denoiser_learns_by_the_slope_of_its_loss(backend, teacher, clips, checkpointing):
    teacher = again(backend, teacher, checkpointing)
    other = teacher.copy()
    frames, timesteps, mel, reference, rng = asked(clips, teacher.frames)
    x = teacher.encode(frames).detach()
    noise = torch.randn(x.shape, generator=rng, dtype=torch.float64)
    other.denoising_loss(x, timesteps, noise, mel, reference).backward()
    assert other.vae is teacher.vae and not any(p.requires_grad for p in teacher.parameters())
    learnt = [p for p in other.parameters() if p.grad is not None and p.grad.abs().max() > 1e-8]
    assert len(learnt) > 40
    # Along the gradient and a little across: along a way by chance most of the slope cancels, and rounding remains.
    steepest = torch.stack([p.grad.square().sum() for p in learnt]).sum().sqrt()
    count = sum(p.numel() for p in learnt)
    across = torch.Generator().manual_seed(0)
    ways = [p.grad / steepest + torch.randn(p.shape, generator=across).to(p) / count**0.5 for p in learnt]
    slope = sum(float((p.grad * w).sum()) for p, w in zip(learnt, ways))

    def loss(step):
        with torch.no_grad():
            for p, w in zip(learnt, ways):
                p += step * w
            return float(other.denoising_loss(x, timesteps, noise, mel, reference))

    up, down = loss(1e-3), loss(-2e-3)
    assert slope == pytest.approx((up - down) / 2e-3, rel=1e-4)


def test_bf16_gives_nearly_the_same_gradient(backend, teacher, clips):
    tensors, about = teacher.tensors()
    half = replace(backend, dtype="bf16").load({k: v.float() for k, v in tensors.items()}, about)
    assert next(half.transformer.parameters()).dtype == half.vae.dtype == torch.bfloat16
    found = []
    for one in (teacher, half):
        frames, timesteps, mel, reference, rng = asked(clips, teacher.frames)
        frames = (frames if one is teacher else frames.float()).requires_grad_()
        x = one.encode(frames)
        noise = torch.randn(x.shape, generator=rng).to(x)
        vsd_loss(x, one, mel, reference.to(x), timesteps, noise).backward()
        found.append(frames.grad.flatten().double())
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) > 0.98


def test_the_stage_makes_prompts_windows_and_numbers(kind, backend, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        "stages.common.process_map", lambda fn, items, workers, on_done: [fn(item) for item in items]
    )
    raw = copy.deepcopy(yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text()))
    raw["score"] = {"backend": kind, kind: asdict(backend)}
    data = film(raw, tmp_path, seconds=1.0)
    stage = Stage("score", None, parse_params(raw), data)
    stage_score.main(stage)
    tensors, sidecar = load_checkpoint(stage.out / "score.safetensors", hint="")
    assert sidecar["config"] == backend.about and backend.about["model"] == "tiny"
    loaded = backend.load(tensors, sidecar["config"])
    for name, value in loaded.tensors()[0].items():
        assert torch.equal(value, tensors[name]) and len(value) == 2
    assert (stage.reports / "contact_sheet.png").is_file()
    text = (stage.reports / "metrics.json").read_text()
    assert "denoise_matched_held_out" in text and "denoise_mismatched_held_out" in text
