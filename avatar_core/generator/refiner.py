"""Face and hand refiner: a small transformer conditioned on the time index t of the frame, not on the diffusion step.

Source: paper section "Audio-driven Particle Motion Generation". It adds a residual, zero at the start, to the face and
hand latents of the diffusion transformer's clean motion. The time index is the frame's number in its clip, in training as in use;
it is seen as phases of a few periods, so that an utterance longer than the training clips knows no other phases.

Shapes: B windows, T frames, D latents, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avatar_core.generator.config import RefinerConfig
from avatar_core.networks.blocks import BandedAttention, ConvBlock

PERIODS = (4, 8, 16, 32, 64, 128)  # frames


class Refiner(nn.Module):
    """forward(x0 (B,T,D), audio (B,T,C), time (B,T) frames) -> x0 with face and hand latents refined.

    Equation: x0 + R(x0, A, t) on face and hand latents. Locked by test_it_changes_face_and_hands_alone,
    test_it_is_conditioned_on_the_time_in_the_utterance.
    """

    periods: Tensor

    def __init__(self, config: RefinerConfig, dims: int, audio_channels: int, start: int) -> None:
        """Latents from `start` on (face, then hand) are refined; those before it (body) pass through."""
        super().__init__()
        c, self.start = config.channels, start
        self.config = config
        self.join = nn.Linear(dims - start + audio_channels + 2 * len(PERIODS), c)
        self.convs = nn.ModuleList(
            [ConvBlock(c, config.kernel, config.dropout) for _ in range(config.blocks)]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(c) for _ in range(config.blocks)])
        self.attentions = nn.ModuleList(
            [BandedAttention(c, config.heads, config.radius) for _ in range(config.blocks)]
        )
        self.head = nn.Linear(c, dims - start)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("periods", torch.tensor(PERIODS, dtype=torch.float32), persistent=False)

    @property
    def receptive_field(self) -> int:
        """Frames on either side that can change an output frame."""
        return self.config.blocks * (self.config.kernel // 2 + self.config.radius)

    def forward(self, x0: Tensor, audio: Tensor, time: Tensor) -> Tensor:
        phase = time[..., None].float() * (2 * torch.pi / self.periods)
        part = x0[..., self.start :]
        h = self.join(torch.cat([part, audio, phase.sin(), phase.cos()], -1))
        for conv, norm, attention in zip(self.convs, self.norms, self.attentions, strict=True):
            h = conv(h)
            h = h + attention(norm(h))
        return torch.cat([x0[..., : self.start], part + self.head(h)], -1)
