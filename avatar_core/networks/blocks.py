"""Blocks that the generator, its refiner and the audio-particle embedding are made of.

Every block sees a bounded neighbourhood in time, so a network of them runs on any length.

Legend: B windows, T frames at 25 fps, 4T mel frames at 100 Hz, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_core.ranks import Dropout


class AudioTrunk(nn.Module):
    """Log-mel (B,4T,80) -> features (B,T,C): normalisation, two convolutions down to 25 fps, residual blocks."""

    mel_mean: Tensor
    mel_std: Tensor  # both over the training clips, see mel_statistics

    def __init__(self, mels: int, channels: int, blocks: int, kernel: int, dropout: float) -> None:
        super().__init__()
        c = channels
        self.register_buffer("mel_mean", torch.zeros(mels))
        self.register_buffer("mel_std", torch.ones(mels))
        self.stem = nn.Conv1d(mels, c, 5, padding=2)
        self.down = nn.Conv1d(c, c, 6, stride=4, padding=1)
        self.blocks = nn.ModuleList([ConvBlock(c, kernel, dropout) for _ in range(blocks)])

    def fit_normalisation(self, log_mels: Iterable[ArrayLike]) -> None:
        """Set mean and deviation from training clips (T,80)."""
        for own, value in zip((self.mel_mean, self.mel_std), mel_statistics(log_mels), strict=True):
            own.copy_(value)

    def forward(self, log_mel: Tensor) -> Tensor:
        h = ((log_mel - self.mel_mean) / self.mel_std).transpose(1, 2)
        h = F.gelu(self.down(F.gelu(self.stem(h)))).transpose(1, 2)
        for block in self.blocks:
            h = block(h)
        return h


def mel_statistics(log_mels: Iterable[ArrayLike]) -> tuple[Tensor, Tensor]:
    """Mean and deviation (80,) of each band over all frames of training clips (T,80); 0.1 keeps a silent band finite."""
    frames = np.concatenate([np.asarray(mel, np.float32) for mel in log_mels])
    return torch.from_numpy(frames.mean(0)), torch.from_numpy(frames.std(0) + 0.1)


class ConvBlock(nn.Module):
    """Depthwise convolution in time, then a two-layer perceptron; residual."""

    def __init__(self, channels: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(2 * channels, channels),
        )

    def forward(self, h: Tensor, scale: Tensor | float = 0.0, shift: Tensor | float = 0.0) -> Tensor:
        y = self.norm(self.conv(h.transpose(1, 2)).transpose(1, 2))
        return h + self.mlp(y * (1 + scale) + shift)


class BandedAttention(nn.Module):
    """Multi-head self-attention over the frames within `radius`, with rotary positions."""

    def __init__(self, channels: int, heads: int, radius: int) -> None:
        super().__init__()
        self.heads, self.radius = heads, radius
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        batch, frames, channels = h.shape
        q, k, v = self.qkv(h).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        time = torch.arange(frames, device=h.device)
        q, k = _rotary(q, time), _rotary(k, time)
        band = (time[:, None] - time[None]).abs() <= self.radius
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=band)
        return self.out(mixed.transpose(1, 2).reshape(batch, frames, channels))


def _rotary(x: Tensor, time: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    rate = 100.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = time[:, None].float() * rate  # bfloat16 would not tell one late frame from the next
    a, b = x.chunk(2, -1)
    turned = torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
    return turned.to(x.dtype)
