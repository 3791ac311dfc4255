"""Log-mel features, normalisation, augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar_core.audio.augment import augment, warp_mel
from avatar_core.audio.config import AugmentConfig
from avatar_core.audio.features import (
    FLOOR,
    HIGH_HZ,
    LOW_HZ,
    NUM_MELS,
    hz_to_mel,
    log_mel,
    log_mel_numpy,
    mel_to_hz,
)

CENTERS_HZ = mel_to_hz(np.linspace(hz_to_mel(LOW_HZ), hz_to_mel(HIGH_HZ), NUM_MELS + 2))[1:-1]
RNG = np.random.default_rng(0)


def _tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(16000 * seconds)) / 16000)).astype(np.float32)


@pytest.mark.parametrize("frames", [1, 3, 25, 333])
def test_four_features_a_picture(frames):
    audio = torch.zeros(frames * 640)
    assert log_mel(audio).shape == (4 * frames, NUM_MELS)


def test_empty_and_short():
    assert log_mel(torch.zeros(0)).shape == (0, NUM_MELS)
    assert log_mel(torch.zeros(159)).shape == (0, NUM_MELS)
    assert log_mel(torch.zeros(2, 160)).shape == (2, 1, NUM_MELS)
    assert log_mel_numpy(np.zeros(0)).shape == (0, NUM_MELS)


def test_numpy_and_torch_agree():
    audio = (0.1 * RNG.standard_normal(16000 * 3)).astype(np.float32)
    ours = log_mel(torch.from_numpy(audio))
    np.testing.assert_allclose(ours.numpy(), log_mel_numpy(audio), atol=2e-4)


def test_blocks_do_not_show():
    """Longer than one block of 4096 frames: the same numbers as in pieces (with their surroundings)."""
    audio = torch.from_numpy((0.1 * RNG.standard_normal(160 * 5000)).astype(np.float32))
    whole = log_mel(audio)
    piece = log_mel(audio[160 * 4000 : 160 * 4200])
    torch.testing.assert_close(whole[4001:4199], piece[1:-1], atol=2e-4, rtol=0)


def test_frames_are_centred():
    """A click at the middle of frame k is strongest in frame k, and equally strong on both sides."""
    audio = torch.zeros(16000)
    audio[160 * 50 + 80] = 1.0
    energy = log_mel(audio).exp().mean(-1)
    assert int(energy.argmax()) == 50
    assert float(energy[49]) == pytest.approx(float(energy[51]), rel=0.05)
    assert float(energy[48]) < 1e-3 * float(energy[50])


def test_a_tone_lights_its_band():
    for hz in (200.0, 1000.0, 4000.0):
        band = int(log_mel(torch.from_numpy(_tone(hz)))[50].argmax())
        assert abs(band - int(np.argmin(np.abs(CENTERS_HZ - hz)))) <= 1


def test_levels():
    """Silence reads the floor, white noise of variance v reads ln v in every band."""
    assert log_mel(torch.zeros(3200)).max().item() == pytest.approx(np.log(FLOOR))
    noise = torch.from_numpy((0.1 * RNG.standard_normal(16000 * 4)).astype(np.float32))
    level = log_mel(noise).exp().mean(0).log()
    assert level[5:].mean().item() == pytest.approx(np.log(0.01), abs=0.1)


def test_gradient_flows():
    audio = (0.1 * torch.randn(3200, generator=torch.Generator().manual_seed(0))).requires_grad_()
    log_mel(audio).sum().backward()
    assert audio.grad is not None and torch.isfinite(audio.grad).all() and audio.grad.abs().max() > 0


def _speechlike(batch: int = 3) -> torch.Tensor:
    base = torch.linspace(-4, -9, NUM_MELS) + 3 * torch.sin(torch.arange(120.0))[:, None]
    return base.expand(batch, -1, -1).clone()


def test_augment_is_seeded_and_changes_every_clip_differently():
    features = _speechlike()
    one = augment(features, torch.Generator().manual_seed(1))
    two = augment(features, torch.Generator().manual_seed(1))
    assert torch.equal(one, two) and one.shape == features.shape and torch.isfinite(one).all()
    assert not torch.allclose(one[0], one[1], atol=0.05)
    assert not torch.allclose(one, augment(features, torch.Generator().manual_seed(2)), atol=0.05)


def test_augment_keeps_time_and_silence():
    """Without noise: silent frames stay silent, the loud frames stay the loud ones."""
    features = _speechlike(4)
    features[:, 40:60] = float(np.log(FLOOR))
    out = augment(features, torch.Generator().manual_seed(3), AugmentConfig(noise_probability=0.0))
    assert (out[:, 40:60] < np.log(FLOOR) + 1e-3).all()
    before, after = features.mean(-1), out.mean(-1)
    for clip in range(4):
        assert np.corrcoef(before[clip], after[clip])[0, 1] > 0.95


def test_noise_is_below_the_speech():
    features = _speechlike(8)
    config = AugmentConfig(warp_probability=0.0, gain_sd=0.0, equaliser_sd=0.0, noise_probability=1.0)
    out = augment(features, torch.Generator().manual_seed(4), config)
    assert (out >= features - 1e-3).all()
    loud = features.mean(-1) > features.mean(-1).quantile(0.8)
    assert (out - features)[loud].mean() < 1.0


def test_warp_moves_a_formant_by_its_factor():
    peak = 40
    features = torch.full((2, 5, NUM_MELS), -10.0)
    features[:, :, peak] = 0.0
    out = warp_mel(features, torch.tensor([0.9, 1.0]))
    assert torch.allclose(out[1], features[1], atol=1e-4)
    found = CENTERS_HZ[int(out[0, 0].argmax())]
    assert found == pytest.approx(CENTERS_HZ[peak] / 0.9, rel=0.04)
