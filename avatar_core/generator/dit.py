"""Diffusion transformer F: clean motion x0 from noisy motion x_tau, audio A and the diffusion step tau.

Source: paper section "Audio-driven Particle Motion Generation" (x0 = F(x_tau | A, tau); audio concatenated with the noisy
motion, tau by FiLM). With little data depthwise convolutions learn most of the mapping; banded self-attention with
rotary positions adds to them. Every layer sees a bounded neighbourhood, so the network runs on any length, and a
window with `receptive_field` frames more on either side gives exactly the frames of one long pass.

Shapes: B windows, T frames at 25 fps, 4T mel frames at 100 Hz, D latents, C channels.
"""

from __future__ import annotations

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_core.generator.config import DiTConfig
from avatar_core.networks.blocks import AudioTrunk, BandedAttention, ConvBlock


class DiT(nn.Module):
    """F. forward(x_tau (B,T,D), timesteps (B,), audio (B,T,C)) -> x0 (B,T,D).

    The output is a prior read from the audio alone plus what the noisy motion adds to it.
    Equation: X_0 = F(X_tau | A, tau). Locked by test_receptive_field_is_within_the_context,
    test_learns_lips_from_sound.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        self.trunk = AudioTrunk(config.mels, c, config.audio_blocks, config.kernel, config.dropout)
        self.no_audio = nn.Parameter(torch.zeros(c))  # stands for dropped audio in classifier-free guidance
        self.steps = Timesteps(c, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.step_mlp = TimestepEmbedding(c, c)
        self.join = nn.Linear(c + config.dims, c)
        self.blocks = nn.ModuleList([DiTBlock(config) for _ in range(config.motion_blocks)])
        self.norm = nn.LayerNorm(c)
        self.head = nn.Linear(c, config.dims)
        self.prior = nn.Linear(c, config.dims)

    def encode_audio(self, log_mel: Tensor) -> Tensor:
        """Log-mel (B,4T,80) -> audio features (B,T,C)."""
        return self.trunk(log_mel)

    def drop_audio(self, audio: Tensor, dropped: Tensor) -> Tensor:
        """Audio features (B,T,C) with those of the windows marked in dropped (B,) replaced by the learned blank."""
        return torch.where(dropped[:, None, None], self.no_audio, audio)

    def forward(self, x_tau: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        film = self.step_mlp(self.steps(timesteps).to(x_tau.dtype))
        h = self.join(torch.cat([audio, x_tau], -1))
        for block in self.blocks:
            h = block(h, film)
        return self.prior(audio) + self.head(self.norm(h))


class DiTBlock(nn.Module):
    """Convolution and banded attention, both modulated by the diffusion step; the attention starts closed.

    Locked by test_a_block_ignores_the_step_until_it_is_trained.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        c = config.channels
        self.film = nn.Linear(c, 5 * c)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        self.conv = ConvBlock(c, config.kernel, config.dropout)
        self.attention = BandedAttention(c, config.heads, config.attention_radius)
        self.norm = nn.LayerNorm(c, elementwise_affine=False)

    def forward(self, h: Tensor, film: Tensor) -> Tensor:
        scale, shift, scale_a, shift_a, gate = self.film(F.silu(film))[:, None].chunk(5, -1)
        h = self.conv(h, scale, shift)
        return h + gate * self.attention(self.norm(h) * (1 + scale_a) + shift_a)
