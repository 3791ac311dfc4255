"""Log-mel as the generator's audio features, with its augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avatar_core.audio.augment import AugmentConfig, augment
from avatar_core.audio.features import NUM_MELS, log_mel
from avatar_core.config import section


@dataclass(frozen=True)
class LogMel:
    """See `features.log_mel`."""

    augmentation: AugmentConfig = section(AugmentConfig)

    @property
    def bands(self) -> int:
        return NUM_MELS

    def hear(self, audio: Tensor) -> Tensor:
        return log_mel(audio)

    def augment(self, features: Tensor, rng: torch.Generator) -> Tensor:
        return augment(features, rng, self.augmentation) if self.augmentation.enabled else features


CLEAN = LogMel(AugmentConfig(enabled=False))
