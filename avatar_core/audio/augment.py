"""Augmentation of log-mel features: other vocal tracts, other rooms, other noise.

VTLP (Jaitly and Hinton 2013) warps the frequency axis, gain and a random equaliser change the colour, and noise is added
as power. The times of the sounds are untouched, so the lips' targets stay valid. Small networks do not score better on
clean speech for it, but it is what makes unheard voices and noise work, and what keeps the mouth shut on faint noise.

B = clips; K = feature frames at 100 Hz; M = 80 mel bands.
"""

from __future__ import annotations

import numpy as np
import torch

from avatar_core.audio.config import AugmentConfig
from avatar_core.audio.features import FLOOR, HIGH_HZ, LOW_HZ, NUM_MELS, hz_to_mel, mel_to_hz


def augment(
    features: torch.Tensor, generator: torch.Generator, config: AugmentConfig | None = None
) -> torch.Tensor:
    """(B, K, M) raw log-mel (not normalised) -> the same shape; each clip is changed in its own way.

    `generator` must live on the CPU (so that a seed means the same on every device).
    """
    config = config or AugmentConfig()
    device, batch = features.device, features.shape[0]
    raw = features.detach().to("cpu", torch.float32)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, device="cpu")

    warp = config.warp_low + (config.warp_high - config.warp_low) * uniform(batch)
    warp = torch.where(uniform(batch) < config.warp_probability, warp, torch.ones_like(warp))
    raw = warp_mel(raw, warp)

    gain = config.gain_sd * torch.randn(batch, 1, generator=generator, device="cpu")
    colour = gain + config.equaliser_sd * _random_curve(batch, generator)
    raw = _scale_power(raw, colour)

    noisy = uniform(batch) < config.noise_probability
    speech_level = raw.mean(-1).quantile(0.9, dim=1)  # (B,) ln power while someone speaks
    loudest = speech_level - config.noise_below_speech_db * np.log(10) / 10
    faintest = torch.full_like(loudest, float(np.log(FLOOR)))
    level = faintest + (torch.maximum(loudest, faintest) - faintest) * uniform(batch)
    shape = level[:, None] + _random_curve(batch, generator)
    # the power of noise in one band scatters from frame to frame; the mean of three exponentials has about its spread
    scatter = -torch.log(uniform(3, *raw.shape).clamp_min(1e-9)).mean(0)
    noise = torch.exp(shape)[:, None, :] * scatter * noisy[:, None, None]
    raw = torch.log(torch.exp(raw) + noise)
    return raw.to(device, features.dtype)


def warp_mel(features: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Stretch the frequency axis: band at f Hz reads what was at f * factor. (B, K, M), (B,) -> (B, K, M)."""
    low, high = float(hz_to_mel(LOW_HZ)), float(hz_to_mel(HIGH_HZ))
    mels = np.linspace(low, high, NUM_MELS + 2)[1:-1]
    hz = mel_to_hz(mels)[None] * factors.detach().cpu().numpy().astype(np.float64)[:, None]
    position = (hz_to_mel(np.minimum(hz, HIGH_HZ)) - mels[0]) / (mels[1] - mels[0])
    position = torch.as_tensor(
        np.clip(position, 0, NUM_MELS - 1), dtype=features.dtype, device=features.device
    )
    left = position.floor().long().clamp(max=NUM_MELS - 2)
    share = (position - left)[:, None, :]
    index = left[:, None, :].expand(-1, features.shape[1], -1)
    return torch.gather(features, 2, index) * (1 - share) + torch.gather(features, 2, index + 1) * share


def _random_curve(batch: int, generator: torch.Generator) -> torch.Tensor:
    """(B, M): unit normal at four places, straight lines between."""
    points = torch.randn(batch, 1, 4, generator=generator, device="cpu")
    return torch.nn.functional.interpolate(points, size=NUM_MELS, mode="linear", align_corners=True)[:, 0]


def _scale_power(raw: torch.Tensor, nepers: torch.Tensor) -> torch.Tensor:
    """Multiply the power above the floor by exp(nepers (B, M)); silence stays silence."""
    power = (torch.exp(raw) - FLOOR).clamp_min(0.0)
    return torch.log(power * torch.exp(nepers)[:, None, :] + FLOOR)
