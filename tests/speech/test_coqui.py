"""Speech backend `coqui`: levels, speakers; where Coqui TTS is installed, a tiny VITS and XTTS of its classes through the stage."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from avatar_core.device import CPU
from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio, write_wav
from avatar_core.io.catalog import read_catalog
from avatar_core.models.files import folder_digest
from avatar_core.speech.coqui import CoquiSpeech, levelled, resampled
from avatar_core.speech.scripts import Line
from stages.params import parse_params

ROOT = Path(__file__).resolve().parents[2]


def test_active_parts_are_brought_to_one_level_and_silence_stays():
    rng = np.random.default_rng(0)
    for gain in (0.01, 0.5):
        audio = np.concatenate([gain * 0.2 * rng.normal(size=16000), np.zeros(16000)]).astype(np.float32)
        out = levelled(audio)
        assert 20 * np.log10(np.sqrt((out[:16000] ** 2).mean())) == pytest.approx(-23, abs=0.3)
        assert not out[16000:].any()
    loud = levelled(np.r_[np.zeros(3200), 0.01, np.zeros(3200), 1e-4 * np.ones(320)].astype(np.float32))
    assert np.abs(loud).max() <= 0.951
    assert not levelled(np.zeros(5, np.float32)).any()


def test_sound_of_any_rate_becomes_16_khz():
    tone = np.sin(2 * np.pi * 440 * np.arange(22050) / 22050).astype(np.float32) * 0.5
    out = resampled(tone, 22050)
    assert abs(len(out) - 16000) <= 2
    assert np.abs(np.fft.rfft(out[:16000])).argmax() == 440


def test_no_two_splits_share_a_reference(tmp_path):
    for k in range(7):
        write_wav(tmp_path / f"v{k}.wav", np.zeros(160, np.float32))
    source = CoquiSpeech("xtts-v2", "x", references=str(tmp_path))
    splits = {split: source.voices(split, None) for split in ("train", "val", "test")}
    assert sorted(name for names in splits.values() for name in names) == [
        f"v{k}.wav" for k in range(7)
    ] and all(splits.values())
    with pytest.raises(UserError, match=r"speech\.coqui\.references: expected a folder of recordings"):
        CoquiSpeech("xtts-v2", "x").voices("train", None)


def save_tiny_vits(folder):
    import torch
    from TTS.tts.configs.vits_config import VitsArgs, VitsConfig
    from TTS.tts.models.vits import Vits

    shape = VitsArgs(
        hidden_channels=16, hidden_channels_ffn_text_encoder=16, num_heads_text_encoder=2, num_layers_text_encoder=1,
        num_layers_flow=1, num_layers_posterior_encoder=1, upsample_initial_channel_decoder=16, upsample_rates_decoder=[8, 8, 4],
        upsample_kernel_sizes_decoder=[16, 16, 8], resblock_kernel_sizes_decoder=[3], resblock_dilation_sizes_decoder=[[1, 3, 5]],
    )  # fmt: skip
    torch.manual_seed(0)
    model = Vits(VitsConfig(model_args=shape, text_cleaner="basic_cleaners", use_phonemes=False))
    folder.mkdir()
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    model.config.save_json(str(folder / "config.json"))
    return folder


def save_tiny_xtts(folder):
    """With the layout of XTTS-v2: config.json, vocab.json, model.pth."""
    import torch
    from tokenizers import Tokenizer, models
    from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
    from TTS.tts.models.xtts import Xtts

    words = ["[STOP]", "[UNK]", "[SPACE]", "[en]", "[START]", *"abcdefghijklmnopqrstuvwxyz.,?!'"]
    tokenizer = Tokenizer(models.BPE({w: k for k, w in enumerate(words)}, [], unk_token="[UNK]"))
    tokenizer.add_special_tokens(words[:5])
    shape = XttsArgs(
        gpt_layers=1, gpt_n_model_channels=64, gpt_n_heads=2, gpt_max_audio_tokens=24, gpt_max_text_tokens=250,
        gpt_number_text_tokens=len(words), gpt_start_text_token=4, gpt_stop_text_token=0, gpt_num_audio_tokens=18,
        gpt_start_audio_token=16, gpt_stop_audio_token=17, gpt_use_perceiver_resampler=True, decoder_input_dim=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Xtts(XttsConfig(model_args=shape))
    folder.mkdir()
    tokenizer.save(str(folder / "vocab.json"))
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    model.config.save_json(str(folder / "config.json"))
    return folder


@pytest.mark.models("TTS", "torchaudio")
def test_xtts_speaks_in_the_voices_of_recordings(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder, voices = save_tiny_xtts(tmp_path / "xtts"), tmp_path / "voices"
    times = np.arange(2 * 16000) / 16000
    for k in range(3):
        tone = 0.3 * np.sign(np.sin(2 * np.pi * (110 + 50 * k) * times)) * np.sin(2 * np.pi * 2 * times)
        write_wav(voices / f"v{k}.wav", tone.astype(np.float32))
    source = CoquiSpeech("xtts-v2", str(folder), folder_digest(folder), str(voices), ["en"])
    assert source.lacking() == []
    rows = spoken_rows(source, tmp_path, "data", seconds=4.0)
    assert {row["voice"] for row in rows} == {"v0", "v1", "v2"}
    for row in rows:
        assert (row["backend"], row["licence"]) == ("coqui", "Coqui Public Model License 1.0")
    line = Line("en", "train", "hello there.")
    asked = [(line, "v0.wav"), (line, "v1.wav"), (line, "v0.wav")]
    first, other, again = (s.audio for s in source.spoken(asked, CPU))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    write_wav(voices / "v3.wav", np.ones(1600, np.float32) * 0.1)
    with pytest.raises(
        UserError, match=r"speech\.coqui: expected to speak 'hello there\.' in en, found: .* too short"
    ):
        list(source.spoken([(line, "v3.wav")], CPU))


def spoken_rows(source, tmp_path, name, seconds=1.0):
    """The catalogue of stage speech for three people, one a split."""
    from stages import speech

    people = [
        {"id": f"p{k}", "split": s, "shard": 0, "seed": 0, "attributes": {}}
        for k, s in enumerate(["train", "val", "test"])
    ]
    data = tmp_path / name
    (data / "identities").mkdir(parents=True)
    (data / "identities" / "identities.json").write_text(json.dumps(people))
    stage = stage_of(source, data, tmp_path, seconds)
    speech.main(stage)
    return read_catalog(stage.out / "catalog.parquet")


def stage_of(source, data, tmp_path, seconds):
    from stages.common import Stage

    raw = copy.deepcopy(yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text()))
    raw["run"]["shards"] = [0]
    raw["identities"] |= {"train": 1, "val": 1, "test": 1}
    raw["speech"] |= {"backend": "coqui", "coqui": vars(source), "face_clips": 1, "waist_up_clips": 0, "full_body_clips": 0,
                      "val_clips": 1, "val_waist_up_clips": 0, "test_clips": 1, "max_seconds": seconds}  # fmt: skip
    raw["teacher"] |= {"backends": {"folder": 1.0}, "folder": {"path": str(tmp_path)}}
    return Stage("speech", None, parse_params(raw), data)


@pytest.mark.models("TTS", "torchaudio")
def test_the_stage_speaks_by_a_model_and_says_which(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = save_tiny_vits(tmp_path / "vits")
    source = CoquiSpeech("vits", str(folder), folder_digest(folder), languages=["en"])
    assert source.lacking() == []
    made = []
    for name in ("a", "b"):
        rows, out = spoken_rows(source, tmp_path, name), tmp_path / name / "speech"
        assert len(rows) == 4
        for row in rows:
            assert (row["backend"], row["revision"], row["licence"]) == (
                "coqui",
                source.sha256,
                "see the model's page",
            )
            audio = read_audio(out / "wav" / f"{row['id']}.wav")
            assert len(audio) == 640 * row["t_len"] <= 16000 and not audio[: round(0.19 * 16000)].any()
            assert np.abs(audio).max() > 0.02
        made.append([row["sha256"] for row in rows])
    assert made[0] == made[1]  # the same bytes every time
    with pytest.raises(UserError, match="it is another model, or damaged"):
        list(replace(source, sha256="0" * 64).spoken([], CPU))
    (folder / "model.pth").unlink()
    assert "expected config.json and weights (.pth), found no weights" in "\n".join(source.lacking())
