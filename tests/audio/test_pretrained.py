"""Audio features by published encoders: tiny ones of the same classes, saved to disk as the real ones are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.audio.backends import AudioConfig
from avatar_core.audio.pretrained import Hubert, Wav2Vec2, Whisper
from avatar_core.errors import UserError
from avatar_core.models.files import folder_digest

pytestmark = pytest.mark.models("transformers")

KINDS = {"wav2vec2": Wav2Vec2, "hubert": Hubert, "whisper": Whisper}


def save_tiny(kind, folder):
    import transformers as t

    torch.manual_seed(0)
    shape = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": (16,) * 7,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "conv_bias": True, "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    }  # fmt: skip
    if kind == "whisper":
        config = t.WhisperConfig(
            d_model=24, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=60, num_mel_bins=80, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=1,
        )  # fmt: skip
        t.WhisperModel(config).save_pretrained(folder)
        t.WhisperFeatureExtractor().save_pretrained(folder)
    else:
        cls = {"wav2vec2": (t.Wav2Vec2Config, t.Wav2Vec2Model), "hubert": (t.HubertConfig, t.HubertModel)}[
            kind
        ]
        cls[1](cls[0](**shape)).save_pretrained(folder)
        t.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    made = {}
    for kind, cls in KINDS.items():
        folder = save_tiny(kind, tmp_path_factory.mktemp(kind))
        made[kind] = cls(model=str(folder), sha256=folder_digest(folder))
    return made


def sound(seconds, seed=0):
    """Noise whose loudness changes every 80 ms."""
    rng = np.random.default_rng(seed)
    count = round(seconds * 16000)
    loud = np.repeat(rng.choice([0.01, 0.1, 0.4], count // 1280 + 1), 1280)[:count]
    return torch.from_numpy((loud * rng.normal(size=count)).astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_encoders_layer_at_a_hundred_frames_a_second(encoders, kind):
    features = encoders[kind]
    assert features.lacking() == [] and features.bands == 25
    audio = sound(2.0)
    heard = features.hear(audio)
    assert heard.shape == (200, 25) and torch.isfinite(heard).all()
    assert torch.equal(heard, features.hear(audio))
    first = replace(features, layer=1).hear(audio)
    assert torch.equal(first[:, 0], heard[:, 0]) and not torch.allclose(first, heard)
    assert features.hear(torch.zeros(0)).shape == (0, 25)
    with pytest.raises(UserError, match=rf"audio\.{kind}\.layer: expected at most 2, found 9"):
        replace(features, layer=9).hear(audio)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_belongs_to_its_own_time(encoders, kind):
    """What changes most when 40 ms of sound change lies at those 40 ms."""
    features, audio = replace(encoders[kind], layer=1), sound(2.0)
    for at in (0.5, 1.3):
        changed = audio.clone()
        place = slice(round(at * 16000), round((at + 0.04) * 16000))
        changed[place] = sound(0.04, 9) * 3
        moved = (features.hear(changed) - features.hear(audio))[:, 1:].abs().sum(1)
        centre = float((moved**4 * torch.arange(len(moved))).sum() / (moved**4).sum()) / 100
        assert abs(centre + 0.005 - (at + 0.02)) < 0.03, (centre, at)


def test_whisper_hears_long_recordings_in_parts_that_join(encoders):
    features, audio = encoders["whisper"], sound(63.0)
    heard = features.hear(audio)
    assert heard.shape == (6300, 25)
    for start, first, last in (
        (0, 0, 27.9),
        (26, 28.1, 53.9),
        (52, 54.1, 63),
    ):  # seconds: each frame is well inside its part
        part = features.hear(audio[start * 16000 : (start + 30) * 16000])
        whole = heard[round(first * 100) : round(last * 100), 1:]
        assert torch.allclose(whole, part[round((first - start) * 100) :][: len(whole), 1:], atol=1e-4)


def test_takes_and_augmentation_have_the_shapes_of_the_features(encoders):
    features, audio = encoders["hubert"], sound(0.8)
    takes = replace(features, takes=replace(features.takes, count=2)).hear_takes(
        audio.numpy(), [], np.random.default_rng(0)
    )
    assert takes.shape == (2, 80, 25)
    assert features.augment(takes, torch.Generator().manual_seed(0)).shape == (2, 80, 25)


def test_a_student_finds_its_encoder_again(encoders):
    chosen = vars(encoders["wav2vec2"]) | {"takes": {"count": 1}}
    config = AudioConfig.parse({"backend": "wav2vec2", "wav2vec2": chosen}, "params.yaml", "audio")
    again = AudioConfig.parse(config.to_dict(), "student", "audio")
    assert again.features == config.features and again.features.bands == 25


def test_what_is_missing_or_damaged_is_named(encoders, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "hf download facebook/wav2vec2-xls-r-300m --revision" in Wav2Vec2(revision="c" * 40).lacking()[0]
    wrong = replace(encoders["hubert"], sha256="0" * 64)
    with pytest.raises(UserError, match="it is another model, or damaged"):
        wrong.hear(sound(0.5))
    other = Wav2Vec2(model=encoders["hubert"].model, sha256=encoders["hubert"].sha256)
    with pytest.raises(UserError, match="expected model_type wav2vec2, found 'hubert'"):
        other.hear(sound(0.5))
    folder = tmp_path / "pickled"
    shutil.copytree(encoders["hubert"].model, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (line,) = Hubert(model=str(folder), sha256="1" * 64).lacking()
    assert "expected weights as .safetensors, found pytorch_model.bin" in line
