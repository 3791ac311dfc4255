"""Score teacher `ltx2` with a tiny model of the published classes: velocity and eps, guidance, gradients, the stage."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from avatar_core.device import CPU
from avatar_core.distill.losses import vsd_loss
from avatar_core.errors import UserError
from avatar_core.io.checkpoints import load_checkpoint
from avatar_core.models.files import folder_digest
from avatar_core.models.pipeline import load_pipeline
from avatar_core.progress import silent
from avatar_core.score.clips import ScoreClip, to_signed
from avatar_core.score.flow import window_mel
from avatar_core.score.ltx2 import LTX2Score
from stages import score as stage_score
from stages.common import Stage
from stages.params import parse_params
from tests.models.tiny_ltx2 import save_tiny_ltx2
from tests.score.filmed import film

pytestmark = pytest.mark.models("transformers", "accelerate", "av")

ROOT = Path(__file__).resolve().parents[2]
FRAMES, SIZE = 17, 64  # three latents of 2 x 2


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    folder = save_tiny_ltx2(tmp_path_factory.mktemp("ltx") / "tiny")
    return LTX2Score(model=str(folder), sha256=folder_digest(folder), size=SIZE, frames=FRAMES, dtype="fp32")


@pytest.fixture(scope="module")
def clips(backend):
    rng = np.random.default_rng(0)
    return [
        ScoreClip(
            rng.integers(0, 255, (20 + k, SIZE, SIZE, 3), dtype=np.uint8),
            backend.hear(torch.from_numpy(rng.normal(size=640 * (20 + k)).astype(np.float32))).numpy(),
        )
        for k in range(2)
    ]


@pytest.fixture(scope="module")
def teacher(backend, clips, tmp_path_factory):
    """Prompts by the score stage's `train`, weights by distill's `load`, in double precision for differences."""
    made, history = backend.train(clips, 0, tmp_path_factory.mktemp("work"), silent, CPU)
    assert history == []
    return backend.load(*made.tensors()).double()


def asked(clips, seed=0, timestep=600):
    """x's frames, timesteps, mel and reference of the first clip, and a generator for the noise."""
    frames = to_signed(torch.from_numpy(clips[0].frames[:FRAMES]))[None].double()
    rng = torch.Generator().manual_seed(seed)
    return frames, torch.tensor([timestep]), window_mel(clips[0], 0, FRAMES), frames[:, 0], rng


def test_the_velocity_becomes_the_noise_of_the_papers_form(teacher, clips):
    frames, timesteps, mel, reference, rng = asked(clips)
    x = teacher.encode(frames)
    assert x.shape == (1, 4, 3, 2, 2)
    alpha, sigma = teacher.alpha_sigma(timesteps)
    assert float(alpha) == pytest.approx(0.399) and float(sigma) == pytest.approx(0.601)
    noisy = alpha * x + sigma * torch.randn(x.shape, generator=rng)
    with torch.no_grad():
        eps = teacher.predict(noisy, timesteps, mel, reference)
        v = teacher.guided(noisy, timesteps, mel, reference, teacher.text_guidance, 1.0)
    assert torch.allclose((noisy - sigma * eps) / alpha, noisy - sigma * v, atol=1e-6)  # one clean x by both
    assert torch.allclose((noisy - sigma * v)[:, :, :1], teacher.encode(reference[:, None]), atol=1e-6)


def test_the_denoiser_is_asked_as_the_published_pipeline_asks_it(backend, teacher, clips):
    """The pipeline's own call at its first step: the same tokens, noise levels and prompt, hence the same velocity."""
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
    from PIL import Image

    from avatar_core.models.ltx2 import encode_sound

    pipeline = load_pipeline("LTX2DFRPipeline", Path(backend.model), "fp32", "", "none", "cpu")
    _, _, mel, _, _ = asked(clips)
    heard, kept = teacher._middle(mel), []
    handle = pipeline.transformer.register_forward_hook(
        lambda m, a, options, out: kept.append((options, out[0])), with_kwargs=True
    )
    try:
        pipeline(
            prompt=backend.prompt,
            conditions=[LTX2VideoCondition(frames=Image.fromarray(clips[0].frames[0]), index=0, strength=1.0)],
            width=SIZE, height=SIZE, num_frames=FRAMES, frame_rate=25.0, freeze_audio=True, generate_slots=False,
            audio_latents=encode_sound(pipeline.audio_vae, heard, "cpu"), generator=torch.Generator().manual_seed(1),
            output_type="latent",
        )  # fmt: skip
    finally:
        handle.remove()
    options, wanted = kept[3]
    f = options["hidden_states"].shape[1] // 4
    noisy = options["hidden_states"].transpose(1, 2).unflatten(2, (f, 2, 2)).double()
    sigma = options["sigma"].double() / 1000
    assert 0.1 < float(sigma) < 1
    with torch.no_grad():
        sound = teacher.heard(heard)
        found = teacher.velocity(noisy, sigma, noisy[:, :, :1], sound, True, True)
        assert torch.allclose(found.flatten(2).transpose(1, 2).float(), wanted, atol=1e-5)
        for text, hears in ((False, True), (True, False)):
            other = teacher.velocity(noisy, sigma, noisy[:, :, :1], sound, text, hears)
            assert (other - found).abs().max() > 1e-4


def test_guidance_moves_away_from_the_negative_prompt_and_from_silence(teacher, clips):
    frames, timesteps, mel, reference, rng = asked(clips)
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
def test_score_distillation_reaches_the_frames_through_the_autoencoder(teacher, clips, checkpointing):
    frames, timesteps, mel, reference, rng = asked(clips)
    getattr(teacher.vae, f"{'enable' if checkpointing else 'disable'}_gradient_checkpointing")()
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
def test_a_second_denoiser_learns_by_the_slope_of_its_loss(teacher, clips, checkpointing):
    other = teacher.copy()
    getattr(other.transformer, f"{'enable' if checkpointing else 'disable'}_gradient_checkpointing")()
    frames, timesteps, mel, reference, rng = asked(clips)
    x = teacher.encode(frames).detach()
    noise = torch.randn(x.shape, generator=rng, dtype=torch.float64)
    other.denoising_loss(x, timesteps, noise, mel, reference).backward()
    assert other.vae is teacher.vae and not any(p.requires_grad for p in teacher.parameters())
    learnt = [p for p in other.parameters() if p.grad is not None and p.grad.abs().max() > 1e-8]
    assert len(learnt) > 40
    ways = [torch.randn_like(p) for p in learnt]
    slope = sum(float((p.grad * w).sum()) for p, w in zip(learnt, ways))

    def loss(step):
        with torch.no_grad():
            for p, w in zip(learnt, ways):
                p += step * w
            return float(other.denoising_loss(x, timesteps, noise, mel, reference))

    up, down = loss(1e-5), loss(-2e-5)
    assert slope == pytest.approx(
        (up - down) / 2e-5, rel=1e-3
    )  # its noise levels are embedded in single precision


def test_bf16_gives_nearly_the_same_gradient(backend, teacher, clips):
    tensors, about = teacher.tensors()
    half = replace(backend, dtype="bf16").load({k: v.float() for k, v in tensors.items()}, about)
    assert half.transformer.dtype == half.vae.dtype == torch.bfloat16
    found = []
    for one in (teacher, half):
        frames, timesteps, mel, reference, rng = asked(clips)
        frames = (frames if one is teacher else frames.float()).requires_grad_()
        x = one.encode(frames)
        noise = torch.randn(x.shape, generator=rng).to(x)
        vsd_loss(x, one, mel, reference.to(x), timesteps, noise).backward()
        found.append(frames.grad.flatten().double())
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) > 0.98


def test_the_stage_makes_prompts_windows_and_numbers(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        "stages.common.process_map", lambda fn, items, workers, on_done: [fn(item) for item in items]
    )
    raw = copy.deepcopy(yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text()))
    raw["score"] = {"backend": "ltx2", "ltx2": vars(backend)}
    data = film(raw, tmp_path, seconds=1.0)
    stage = Stage("score", None, parse_params(raw), data)
    stage_score.main(stage)
    tensors, sidecar = load_checkpoint(stage.out / "score.safetensors", hint="")
    assert sidecar["config"]["model"] == "tiny" and sidecar["config"]["licence"] == "LTX-2 community licence"
    again = backend.load(tensors, sidecar["config"])
    assert torch.equal(again.video, tensors["video"]) and again.video.shape[0] == 2
    assert (stage.reports / "contact_sheet.png").is_file()
    text = (stage.reports / "metrics.json").read_text()
    assert "denoise_matched_held_out" in text and "denoise_mismatched_held_out" in text


def test_what_cannot_be_asked_is_refused_in_one_line(backend, clips, teacher, tmp_path):
    tensors, about = teacher.tensors()
    cases = {
        "score.ltx2.size: expected a multiple of 32, found 100": replace(backend, size=100),
        "score.ltx2.frames: expected 1 more than a multiple of 8, found 24": replace(backend, frames=24),
        "expected SHA-256 0{12}": replace(backend, sha256="0" * 64),
        r"hf download Lightricks/LTX-2\.5-Diffusers": LTX2Score(revision="a" * 40),
        "score.ltx2.frames: expected clips of 33 frames": replace(backend, frames=33),
    }
    for line, wrong in cases.items():
        with pytest.raises(UserError, match=line):
            wrong.train(clips, 0, tmp_path, silent, CPU)
    raw = copy.deepcopy(yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text()))
    raw["run"]["processes"] = 2
    raw["score"] = {"backend": "ltx2", "ltx2": vars(backend)}
    with pytest.raises(
        UserError, match=r"score\.backend: expected embedded where run\.processes is 2, found ltx2"
    ):
        parse_params(raw)
    with pytest.raises(
        UserError, match=r"expected prompts of tiny, found those of other; run `dvc repro score`"
    ):
        backend.load(tensors, about | {"model": "other"})
    weights = Path(backend.model) / "transformer" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1])
        with pytest.raises(UserError, match=r"diffusion_pytorch_model\.safetensors: expected \d+ bytes"):
            backend.load(tensors, about)
    finally:
        weights.write_bytes(content)
