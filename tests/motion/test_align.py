"""The paper's form of the embedding: L_sim shapes E_X, and a generator hears the aligned encoder."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.audio.features import log_mel_numpy
from avatar_core.embed.align import alignment_loss, train_aligned
from avatar_core.embed.audio_encoder import AudioEncoder
from avatar_core.embed.batches import LatentClip
from avatar_core.embed.config import AlignedConfig
from avatar_core.embed.contrastive import Embedding, retrieval_accuracy
from avatar_core.generator.config import TrainConfig
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import generate
from avatar_core.generator.train import train_generator
from tests.motion.small import EMBED as CONFIG
from tests.motion.small import MODEL, Heard

ALIGNED = AlignedConfig(enabled=True)


@pytest.fixture(scope="module")
def coded(clips, codec):
    """The clips with coefficients in the place of latents."""
    with torch.no_grad():
        return [
            LatentClip(
                log_mel_numpy(a),
                codec.coefficients(c.deformation, visible=c.visible).numpy(),
                {**c.visible, "body": False, "hand": False},
            )
            for a, c in clips
        ]


@pytest.fixture(scope="module")
def trained(coded, codec):
    """(embedding, codec, history)"""
    return train_aligned(coded, deepcopy(codec), CONFIG, ALIGNED)


def test_coefficients_and_networks_are_the_encoder(clips, codec):
    for _, clip in clips[:2]:
        coefficients = codec.coefficients(clip.deformation, visible=clip.visible)
        assert coefficients.shape[1] == codec.bases["hand"].stop
        x = codec.from_coefficients(coefficients)
        shown = codec.latent_mask(clip.visible)
        encoded = codec.encode(clip.deformation, visible=clip.visible)
        assert torch.equal(encoded[:, shown], x[:, shown]) and not encoded[:, ~shown].any()


def test_the_embedding_shapes_the_latents(trained, coded, codec, clips):
    embedding, shaped, history = trained
    assert history[-1]["sim"] < history[0]["sim"] and history[-1]["lost"] < 0.5
    moved = {k for k, v in codec.state_dict().items() if not torch.equal(v, shaped.state_dict()[k])}
    assert moved and all(".face." in f".{k}" and "residual" in k for k in moved), moved
    with torch.no_grad():
        clips = [replace(c, x=shaped.from_coefficients(torch.from_numpy(c.x)).numpy()) for c in coded]
    assert retrieval_accuracy(embedding, clips, choices=5)["frame"] > 0.4  # chance is 0.2


def test_the_loss_is_zero_where_nothing_is_lost_and_counts_what_is_shown(coded, codec):
    features = torch.from_numpy(np.stack([c.audio[:160] for c in coded[:2]]))
    coefficients = torch.from_numpy(np.stack([c.x[:40] for c in coded[:2]]))
    # Without residual networks what the latents hold comes back, and the extra components are lost.
    for region in ("body", "face", "hand"):
        held = codec.bases[region].start + codec.region(region).dims
        coefficients[..., held : codec.bases[region].stop] = 0
    shown, weight = torch.zeros(2, 16, dtype=torch.bool), torch.ones(2, 40)
    shown[:, codec.slices["face"]] = True
    embedding = Embedding(CONFIG).eval()
    assert alignment_loss(embedding, codec, features, coefficients, weight, shown)[1] < 1e-12
    coefficients[..., codec.bases["hand"].stop - 1] = 1  # of the hand, which is not shown
    assert alignment_loss(embedding, codec, features, coefficients, weight, shown)[1] < 1e-12
    coefficients[..., codec.bases["face"].stop - 1] = 1
    std = codec.region("face").std
    share = float(std[-1] ** 2 / std.square().sum())
    lost = alignment_loss(embedding, codec, features, coefficients, weight, shown)[1]
    assert float(lost) == pytest.approx(share, rel=1e-3) and share > 0


def test_it_resumes_exactly(coded, codec, tmp_path):
    config = replace(CONFIG, steps=4, batch=2, checkpoint_every=2)
    straight = train_aligned(coded, deepcopy(codec), config, ALIGNED)
    calls = []

    def kill(features, rng):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return features

    with pytest.raises(KeyboardInterrupt):
        train_aligned(coded, deepcopy(codec), config, ALIGNED, Heard(kill), tmp_path)
    resumed = train_aligned(coded, deepcopy(codec), config, ALIGNED, Heard(lambda f, _: f), tmp_path)
    for one, other in zip(straight[:2], resumed[:2], strict=True):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def test_a_generator_hears_the_encoder_and_leaves_it_as_it_is(trained, data, codec, talk):
    encoder = AudioEncoder.of(trained[0])
    again = AudioEncoder.from_tensors(*encoder.tensors())
    features = torch.from_numpy(data[0].audio[None])
    assert torch.equal(encoder(features), trained[0].embed_audio(features))
    assert torch.equal(encoder(features), again(features))
    config = replace(MODEL, aligned=encoder.config)
    train = TrainConfig(steps=3, batch=4, window=24)
    model, _ = train_generator(data, codec, train, config, encoder=encoder)
    assert model.aligned is not None and model.from_aligned is not None
    torch.testing.assert_close(model.aligned.state_dict(), encoder.state_dict(), rtol=0, atol=1e-6)
    sound = talk(3)[0]
    said = generate(model, sound)
    assert torch.equal(said, generate(Generator.from_tensors(*model.tensors()), sound))
    torch.nn.init.zeros_(model.from_aligned.weight)
    assert not torch.equal(said, generate(model, sound))
