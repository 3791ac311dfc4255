"""Score teacher `wan_s2v`, of the published classes: asked and made to hear as diffsynth's pipeline does; what is refused."""

import ast
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar_core.device import CPU
from avatar_core.errors import UserError
from avatar_core.models.wan_s2v import load_class, load_denoiser
from avatar_core.progress import silent
from avatar_core.score.wan_s2v import Parts, WanS2VScore
from avatar_core.score.wan_s2v_network import shown
from tests.score.published import PACKAGES, asked, doubled, noise_clips, tiny_backend

pytestmark = pytest.mark.models(*PACKAGES["wan_s2v"])

FRAMES = 20


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    return tiny_backend("wan_s2v", tmp_path_factory.mktemp("wan"), FRAMES)


@pytest.fixture(scope="module")
def clips(backend):
    return noise_clips(backend)


@pytest.fixture(scope="module")
def teacher(backend, clips, tmp_path_factory):
    return doubled(backend.train(clips, 0, tmp_path_factory.mktemp("work"), silent, CPU)[0])


def published(file, names, namespace):
    """Functions and methods of a module of diffsynth, made from its source: importing it asks for packages of every kind."""
    source = (Path(find_spec("diffsynth").origin).parent / file).read_text()
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name in names]
    exec(compile(ast.Module(nodes, []), file, "exec"), namespace)
    return [namespace[name] for name in names]


def test_the_denoiser_is_asked_as_the_published_pipeline_asks_it(teacher, clips):
    """`model_fn_wans2v` of the pipeline, with what it is given for the first clip of a video."""
    from diffsynth.models import wan_video_dit_s2v as module  # made importable by load_class

    assert module.WanS2VModel is load_class()
    (ask,) = published("pipelines/wan_video.py", ["model_fn_wans2v"], {**vars(module)})
    pictures, timesteps, mel, reference, rng = asked(clips, FRAMES)
    _, sigma = teacher.alpha_sigma(timesteps)
    with torch.no_grad():
        noisy = torch.randn(teacher.encode(pictures).shape, generator=rng, dtype=torch.float64)
        first, sound = teacher.encode(reference[:, None]), teacher.heard(mel)
        black = torch.zeros(1, 3, 73, 64, 64, dtype=torch.float64)  # no motion yet
        wanted = ask(
            teacher.transformer,
            latents=torch.cat([first, noisy[:, :, 1:]], 2).float(),
            timestep=1000 * sigma.flatten(),
            context=teacher.text[:1].float(),
            audio_embeds=sound.float(),
            motion_latents=teacher.normalised(teacher.vae.encode(black).latent_dist.mode()).float(),
            s2v_pose_latents=None,
            drop_motion_frames=True,
        )
        found = teacher.velocity(noisy, sigma.flatten(), first, sound, True, True)
        assert torch.allclose(found.float(), wanted, atol=1e-5)
        for text, hears in ((False, True), (True, False)):
            other = teacher.velocity(noisy, sigma.flatten(), first, sound, text, hears)
            assert (other - found)[:, :, 1:].abs().max() > 1e-4


def test_a_picture_is_heard_with_the_features_of_its_own_time(backend, teacher):
    from transformers import Wav2Vec2FeatureExtractor

    audio = np.random.default_rng(1).normal(0.1, 0.2, 640 * (FRAMES + 8)).astype(np.float32)
    rows = backend.hear(torch.from_numpy(audio))
    values = Wav2Vec2FeatureExtractor()(audio, sampling_rate=16000, return_tensors="pt").input_values
    assert torch.allclose(rows.flatten(), values[0], atol=1e-4) and rows.shape == (4 * (FRAMES + 8), 160)
    extract, _ = published(
        "models/wav2vec.py",
        ["extract_audio_feat", "linear_interpolation"],
        {"torch": torch, "F": torch.nn.functional},
    )

    class Published:
        model, video_rate = staticmethod(teacher.listener), 30

    features = extract(
        Published, audio, 16000, lambda a, **_: type("", (), {"input_values": values}), True, torch.float64
    )
    heard = teacher.heard(rows[None])
    assert heard.shape == (1, 25, 16, 12) and shown(FRAMES)[:4] == [0, 2, 3, 5]
    for k, frame in enumerate(shown(FRAMES)[1:]):
        assert torch.allclose(heard[0, ..., k].double(), features[:, round((4 + frame) * 30 / 25)], atol=1e-5)


def test_of_25_pictures_a_second_those_nearest_to_16_are_shown():
    for frames in (1, 8, 13, 26, 51, 81):
        chosen = shown(frames)
        assert len(chosen) % 4 == 1 and chosen[-1] < frames
        assert np.abs(np.array(chosen) / 25 - np.arange(len(chosen)) / 16).max() < 0.0201
    assert [len(shown(n)) for n in (1, 7, 8, 26, 51)] == [1, 1, 5, 17, 33] and shown(26)[-1] == 25


def test_what_cannot_be_asked_is_refused_in_one_line(backend, clips, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    pinned = "a" * 40
    cases = {
        "score.wan_s2v.size: expected a multiple of 16, found 100": replace(backend, size=100),
        "expected SHA-256 0{12}": replace(backend, sha256="0" * 64),
        r"score\.wan_s2v\.revision: expected the 40 digits of a commit of Wan-AI/Wan2\.2-S2V-14B": WanS2VScore(),
        rf"hf download Wan-AI/Wan2\.2-S2V-14B --revision {pinned}": WanS2VScore(revision=pinned),
        r"score\.wan_s2v\.parts\.revision: expected the 40 digits": replace(backend, parts=Parts()),
        "score.wan_s2v.frames: expected clips of 33 frames": replace(backend, frames=33),
    }
    for line, wrong in cases.items():
        with pytest.raises(UserError, match=line):
            wrong.train(clips, 0, tmp_path, silent, CPU)
    folder = Path(backend.model)
    for file, content, line in (
        ("config.json", "{}", "config.json: expected the sizes of Wan2.2-S2V, found: KeyError 'dim'"),
        ("diffusion_pytorch_model-00001-of-00002.safetensors", "cut", "found 3 bytes of something else"),
    ):
        whole = (folder / file).read_bytes()
        try:
            (folder / file).write_text(content)
            assert any(line in found for found in backend.lacking())
        finally:
            (folder / file).write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    try:
        (folder / "config.json").write_text(json.dumps(config | {"num_layers": 3}))
        with pytest.raises(UserError, match="expected the weights of a WanS2VModel, found: .*blocks.2"):
            load_denoiser(folder, torch.float32)
    finally:
        (folder / "config.json").write_text(json.dumps(config))
    tensors, about = {"text": torch.zeros(2, 512, 16)}, backend.about
    with pytest.raises(UserError, match="run `dvc repro score`"):
        backend.load(tensors, about | {"parts": "other"})
