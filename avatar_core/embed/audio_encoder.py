"""The sound's side of the audio-particle embedding, for a generator that hears it.

Source: paper section "Audio-Particle Motion Embedding". Shapes: B windows, T frames, M audio features, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_core.embed.config import AudioEncoderConfig
from avatar_core.networks.blocks import AudioTrunk

if TYPE_CHECKING:
    from avatar_core.embed.contrastive import Embedding


class AudioEncoder(nn.Module):
    """The sound's side of a trained embedding alone: features (B,4T,M) -> unit vectors (B,T,E). Stays as it is."""

    def __init__(self, config: AudioEncoderConfig, mels: int) -> None:
        super().__init__()
        self.config, self.mels = config, mels
        self.trunk = AudioTrunk(mels, config.channels, config.blocks, config.kernel, dropout=0.0)
        self.head = nn.Linear(config.channels, config.embedding)
        self.requires_grad_(False)

    @classmethod
    def of(cls, embedding: Embedding) -> AudioEncoder:
        """A copy of the embedding's."""
        config = embedding.config
        sizes = AudioEncoderConfig(
            config.embedding, config.audio_channels, config.audio_blocks, config.kernel
        )
        with torch.device("cpu"):
            encoder = cls(sizes, config.mels)
        encoder.trunk.load_state_dict(embedding.trunk.state_dict())
        encoder.head.load_state_dict(embedding.audio_head.state_dict())
        return encoder

    def tensors(self) -> tuple[dict[str, Tensor], dict]:
        """What a checkpoint holds: tensors by name, and what `from_tensors` needs."""
        return dict(self.state_dict()), {**asdict(self.config), "mels": self.mels}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping) -> AudioEncoder:
        """The inverse of `tensors`."""
        sizes = {name: value for name, value in config.items() if name != "mels"}
        with torch.device("cpu"):
            encoder = cls(AudioEncoderConfig(**sizes), config["mels"])
        encoder.load_state_dict(dict(tensors))
        return encoder

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.head(self.trunk(features)), dim=-1)
