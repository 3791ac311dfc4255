"""Score teacher `ltx2` with a tiny model of the published classes: asked as its pipeline asks it, and what is refused."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from avatar_core.device import CPU
from avatar_core.errors import UserError
from avatar_core.models.pipeline import load_pipeline
from avatar_core.progress import silent
from avatar_core.score.ltx2 import LTX2Score
from stages.params import parse_params
from tests.score.published import PACKAGES, SIZE, asked, noise_clips, tiny_backend

pytestmark = pytest.mark.models(*PACKAGES["ltx2"])

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 17  # three latents of 2 x 2


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    return tiny_backend("ltx2", tmp_path_factory.mktemp("ltx"), FRAMES)


@pytest.fixture(scope="module")
def clips(backend):
    return noise_clips(backend)


@pytest.fixture(scope="module")
def teacher(backend, clips, tmp_path_factory):
    return backend.train(clips, 0, tmp_path_factory.mktemp("work"), silent, CPU)[0].double()


def test_the_denoiser_is_asked_as_the_published_pipeline_asks_it(backend, teacher, clips):
    """The pipeline's own call at its first step: the same tokens, noise levels and prompt, hence the same velocity."""
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
    from PIL import Image

    from avatar_core.models.ltx2 import encode_sound

    pipeline = load_pipeline("LTX2DFRPipeline", Path(backend.model), "fp32", "", "none", "cpu")
    _, _, mel, _, _ = asked(clips, FRAMES)
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
