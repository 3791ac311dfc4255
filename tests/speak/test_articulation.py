"""Mouths that open wider: openings are scaled, shut lips stay, nothing else of the body moves."""

import pytest
import torch

from avatar_core.speak.articulation import articulate
from avatar_core.speak.maker import SHIPPED
from avatar_core.speak.student import load_student


@pytest.fixture(scope="module")
def codec():
    return load_student(SHIPPED).codec


@pytest.fixture(scope="module")
def talk(codec):
    """Latents (100,D) of a mouth that opens and shuts along one direction of the face, gaps from -2 to 8 mm."""
    row, _ = codec.aperture_row()
    gap = 0.003 + 0.005 * torch.sin(torch.arange(100) / 5)
    x = codec.neutral().repeat(100, 1)
    x[:, codec.slices["face"]] += gap[:, None] * row / row.square().sum()
    x[:, codec.slices["body"]] += torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    return x.detach()


def gaps(codec, x):
    return codec.aperture(x) - codec.aperture(codec.neutral()[None])


def test_openings_are_scaled_and_shut_lips_stay(codec, talk):
    before, after = gaps(codec, talk), gaps(codec, articulate(talk, codec, 1.5))
    wide, shut = before > 0.0031, before < 0.0004
    assert wide.sum() > 20 and shut.sum() > 20
    torch.testing.assert_close(after[wide], 1.5 * before[wide], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(after[shut], before[shut], rtol=0, atol=1e-6)
    order = before.argsort()
    assert (after[order].diff() > -1e-6).all(), "a wider gap stays wider"
    narrower = gaps(codec, articulate(talk, codec, 0.5))
    torch.testing.assert_close(narrower[wide], 0.5 * before[wide], rtol=1e-3, atol=1e-6)


def test_the_face_alone_moves_and_1_or_silence_is_no_change(codec, talk):
    wider = articulate(talk, codec, 2.0)
    face = codec.slices["face"]
    other = [k for k in range(codec.dims) if not face.start <= k < face.stop]
    assert torch.equal(wider[:, other], talk[:, other]) and not torch.equal(wider, talk)
    assert articulate(talk, codec, 1.0) is talk
    silence = codec.neutral().repeat(50, 1)
    assert articulate(silence, codec, 2.0) is silence
