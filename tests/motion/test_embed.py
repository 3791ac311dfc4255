import numpy as np
import pytest
import torch

from avatar_core.audio.features import log_mel_numpy
from avatar_core.audio.mel import CLEAN
from avatar_core.embed.batches import LatentClip
from avatar_core.embed.codec_fit import fit_codec
from avatar_core.embed.config import ContrastiveConfig
from avatar_core.embed.contrastive import Embedding, contrastive_loss, retrieval_accuracy, train_embedding
from tests.motion.small import CODEC, Heard
from tests.motion.small import EMBED as CONFIG

FACE = {"head": True, "body": False, "face": True, "hand": False}


@pytest.fixture(scope="module")
def material(clips, talk, person):
    codec = fit_codec([c for _, c in clips], person[1], CODEC)

    @torch.no_grad()
    def motion(audio, deformation):
        return LatentClip(log_mel_numpy(audio), codec.encode(deformation, visible=FACE).numpy(), FACE)

    train = [motion(a, c.deformation) for a, c in clips]
    return codec, train, [motion(*talk(seed)) for seed in range(90, 94)]


def test_motion_finds_its_own_sound(material):
    codec, train, held_out = material
    model, losses = train_embedding(train, codec, CONFIG)
    assert losses[-1]["loss"] < losses[0]["loss"]
    found = retrieval_accuracy(model, held_out, choices=5)
    assert found["frame"] > 0.4 and found["patch"] > 0.5  # chance is 0.2
    torch.manual_seed(0)
    chance = retrieval_accuracy(Embedding(CONFIG).eval(), held_out, choices=5)
    assert chance["patch"] < found["patch"]
    shifted = [LatentClip(np.roll(c.audio, 100, 0), c.x, c.visible) for c in held_out]
    assert retrieval_accuracy(model, shifted, choices=5)["patch"] < found["patch"] - 0.15


def test_embedding_resumes_exactly(material, tmp_path):
    codec, train, _ = material
    config = ContrastiveConfig(**{**vars(CONFIG), "steps": 4, "batch": 2, "checkpoint_every": 2})
    straight, _ = train_embedding(train, codec, config)
    calls = []

    def kill(mel, generator):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return mel

    with pytest.raises(KeyboardInterrupt):
        train_embedding(train, codec, config, Heard(kill), tmp_path)
    resumed, losses = train_embedding(train, codec, config, CLEAN, tmp_path)
    assert len(losses) == 4
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in straight.state_dict().items())


def test_contrastive_loss_prefers_the_diagonal():
    rows = torch.eye(6)
    good, bad = (contrastive_loss(rows, b, torch.tensor(10.0)) for b in (rows, rows.roll(1, 0)))
    assert good < 0.01 < 5 < bad


def test_patches_are_pooled_windows():
    model = Embedding(CONFIG)
    rows = torch.nn.functional.normalize(torch.randn(1, 20, 16), dim=-1)
    patches = model.patches(rows)
    assert patches.shape == (1, 4, 16)
    expected = torch.nn.functional.normalize(rows[0, 4:12].mean(0), dim=-1)
    assert torch.allclose(patches[0, 1], expected, atol=1e-6)


def test_saved_embedding_is_the_same():
    model = Embedding(CONFIG).eval()
    again = Embedding.from_tensors(*model.tensors())
    mel = torch.randn(1, 40, 80)
    assert torch.equal(model.embed_audio(mel), again.embed_audio(mel))
