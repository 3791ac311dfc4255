"""Teacher `ltx2` with a tiny model of the published classes: the sound is held, the pictures follow it, the stage makes clips."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avatar_core.device import CPU
from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio
from avatar_core.io.catalog import read_catalog
from avatar_core.io.video import read_video
from avatar_core.models.files import folder_digest
from avatar_core.models.pipeline import load_pipeline
from avatar_core.speech import Speech
from avatar_core.teacher import ClipRequest
from avatar_core.teacher.ltx2 import LTX2Teacher, audio_latents, log_mel
from stages import teacher
from stages.common import Stage
from stages.params import parse_params
from tests.models.tiny_ltx2 import save_tiny_ltx2
from tests.teacher.programs import ROOT, recorded_run, save_portrait

pytestmark = pytest.mark.models("transformers", "accelerate", "av")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = save_tiny_ltx2(tmp_path_factory.mktemp("ltx") / "tiny")
    return LTX2Teacher(
        model=str(folder), sha256=folder_digest(folder), side=256, dtype="fp32", offload="none"
    )


@pytest.fixture(scope="module")
def pipeline(source):
    return load_pipeline("LTX2DFRPipeline", Path(source.model), "fp32", "", "none", "cpu")


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    return save_portrait(tmp_path_factory.mktemp("portrait"), 400)


def noise(frames, seed=0):
    return (0.2 * np.random.default_rng(seed).normal(size=640 * frames)).astype(np.float32)


def request_of(portrait, audio, framing="face", seed=3):
    return ClipRequest("c", "p", 0, {}, portrait, Speech(audio, [], "", "", ""), framing, 128, seed)


def test_the_sound_and_the_seed_decide_the_pictures(source, pipeline, portrait):
    first = request_of(portrait, noise(12))
    frames = source.film(pipeline, first)
    assert frames.shape == (12, 256, 256, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, source.film(pipeline, first))
    for other in (request_of(portrait, noise(12, 1) * 0), replace(first, seed=4)):
        assert np.abs(frames.astype(float) - source.film(pipeline, other)).mean() > 1
    assert source.film(pipeline, request_of(portrait, noise(3), "full_body")).shape == (3, 256, 128, 3)


def test_our_recording_is_what_the_pictures_attend_to_at_every_step(source, pipeline, portrait):
    heard = []

    def keep(module, arguments, options):
        heard.append((options["audio_hidden_states"].clone(), float(options["audio_timestep"].max())))

    handle = pipeline.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        source.film(pipeline, request_of(portrait, noise(12)))
    finally:
        handle.remove()
    assert len(heard) == 8 and {step for _, step in heard} == {0.0}
    assert all((latents == heard[0][0]).all() for latents, _ in heard)


def test_sound_is_prepared_as_the_model_was_trained_to_hear_it(pipeline):
    import torch

    tone = torch.sin(2 * np.pi * 1000 * torch.arange(16000) / 16000)
    mel = log_mel(tone, 160, 64)
    assert mel.shape == (101, 64)
    # Slaney's mels: linear below 1 kHz (15 of them), logarithmic above; 64 bands between 0 and 8 kHz
    top = 15 + np.log(8) / (np.log(6.4) / 27)
    assert abs(int(mel[50].argmax()) - (15 / top * 65 - 1)) <= 1
    assert log_mel(torch.zeros(16000), 160, 64).max() == pytest.approx(np.log(1e-5))
    latents = audio_latents(pipeline, torch.from_numpy(noise(20)))
    assert latents.shape[0] == 1 and latents.shape[1] == 2 and abs(latents.shape[2] - 20) <= 1  # 25 a second


def test_the_stage_makes_clips_with_model_revision_and_licence(source, portrait, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        "stages.common.process_map", lambda fn, items, workers, on_done: [fn(item) for item in items]
    )
    section = {"backends": {"ltx2": 1.0}, "ltx2": vars(source)}
    raw, data = recorded_run(tmp_path, portrait, section, sounds=[noise(9, k) for k in range(3)])
    params = parse_params(raw)
    stage = Stage("teacher", 0, params, data)
    teacher.main(stage)
    rows = read_catalog(stage.out / "catalog.parquet")
    assert len(rows) == 4
    for row in rows:
        assert (row["backend"], row["model"], row["revision"]) == ("ltx2", "tiny", source.sha256)
        assert row["licence"] == "LTX-2.x Community License"
        video = read_video(stage.out / f"{row['id']}.mp4")
        assert video.shape == (row["t_len"], 128, 128, 3)
        ours, theirs = (
            read_audio(p)
            for p in (data / "speech" / "wav" / f"{row['id']}.wav", stage.out / f"{row['id']}.mp4")
        )
        assert np.corrcoef(ours, theirs[: len(ours)])[0, 1] > 0.7


def test_what_cannot_be_made_is_refused_before_the_model_is_loaded(source, portrait, tmp_path):
    long = request_of(portrait, np.zeros(640 * 25 * 21, np.float32))
    cases = {
        "expected clips of 20 s at most, found 21.0 s": (source, long),
        "teacher.ltx2.side: expected a multiple of 32, found 300": (
            replace(source, side=300),
            request_of(portrait, noise(3)),
        ),
        "expected SHA-256 0{12}": (replace(source, sha256="0" * 64), request_of(portrait, noise(3))),
        r"hf download Lightricks/LTX-2\.5-Diffusers": (
            LTX2Teacher(revision="a" * 40),
            request_of(portrait, noise(3)),
        ),
    }
    for line, (backend, request) in cases.items():
        with pytest.raises(UserError, match=line):
            backend.videos([request], tmp_path, CPU, lambda: None)
