"""The refiner: nothing until it is trained, then face and hands alone, by the frame's number and not by the diffusion step."""

from __future__ import annotations

import torch

from avatar_core.generator.config import RefinerConfig
from avatar_core.generator.refiner import Refiner

START = 5  # latents before it are the body's


def make_refiner(trained: bool) -> Refiner:
    torch.manual_seed(0)
    refiner = Refiner(RefinerConfig(channels=16, blocks=1, heads=2), dims=9, audio_channels=8, start=START)
    if trained:
        torch.nn.init.normal_(refiner.head.weight, std=0.1)
    return refiner.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x0, audio = torch.randn(1, 30, 9, generator=generator), torch.randn(1, 30, 8, generator=generator)
    return x0, audio, torch.arange(30)[None]


def test_it_starts_as_the_identity():
    x0, audio, time = inputs()
    assert torch.equal(make_refiner(False)(x0, audio, time), x0)


def test_it_changes_face_and_hands_alone():
    x0, audio, time = inputs()
    refined = make_refiner(True)(x0, audio, time)
    assert torch.equal(refined[..., :START], x0[..., :START])
    assert (refined[..., START:] != x0[..., START:]).all()


def test_it_is_conditioned_on_the_time_in_the_utterance():
    x0, audio, time = inputs()
    refiner = make_refiner(True)
    assert not torch.allclose(refiner(x0, audio, time), refiner(x0, audio, time + 1), atol=1e-3)
