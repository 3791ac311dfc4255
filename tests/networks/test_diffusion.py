"""The diffusion process and how a block takes its step: what every generator relies on."""

from __future__ import annotations

import torch

from avatar_core.generator.config import DiTConfig
from avatar_core.generator.dit import DiTBlock
from avatar_core.networks.blocks import BandedAttention
from avatar_core.networks.diffusion import TRAIN_STEPS, add_noise, make_scheduler


def test_noised_latents_keep_unit_variance():
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 4, 500, 8, generator=generator)
    for step in (0, 300, 700, TRAIN_STEPS - 1):
        noised = add_noise(x, noise, torch.full((4,), step))
        assert abs(float(noised.var()) - 1) < 0.05


def test_signal_falls_to_nothing_along_the_schedule():
    ones, zeros = torch.ones(TRAIN_STEPS, 1, 1), torch.zeros(TRAIN_STEPS, 1, 1)
    signal = add_noise(ones, zeros, torch.arange(TRAIN_STEPS)).flatten()
    assert (signal.diff() < 0).all() and signal[0] > 0.999 and signal[-1] < 0.01


def test_sampling_steps_undo_the_noise_of_training():
    """A DDIM step from x_tau with the true x0 lands on x_tau' of the same noise: both sides use one schedule."""
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 1, 20, 4, generator=generator)
    scheduler = make_scheduler()
    scheduler.set_timesteps(5)
    now, then = scheduler.timesteps[1:3]
    stepped = scheduler.step(x, int(now), add_noise(x, noise, now[None])).prev_sample
    torch.testing.assert_close(stepped, add_noise(x, noise, then[None]), atol=1e-5, rtol=1e-5)


def test_a_block_ignores_the_step_until_it_is_trained():
    torch.manual_seed(0)
    block = DiTBlock(DiTConfig(channels=16, heads=2)).eval()
    h, early, late = torch.randn(1, 12, 16), torch.randn(1, 16), torch.randn(1, 16)
    assert torch.equal(block(h, early), block(h, late))
    torch.nn.init.normal_(block.film.weight, std=0.1)
    assert not torch.allclose(block(h, early), block(h, late), atol=1e-3)


def test_attention_sees_its_radius_and_no_further():
    torch.manual_seed(0)
    attention = BandedAttention(16, 2, radius=3)
    h = torch.randn(1, 21, 16)
    changed = h.clone()
    changed[:, 10] += 1
    difference = (attention(h) - attention(changed)).abs().sum(-1)[0]
    assert (difference > 0).nonzero().flatten().tolist() == list(range(7, 14))
