"""Log-mel as the generator's audio features, with its augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_core.audio.config import AugmentConfig
from avatar_core.config import section

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class LogMel:
    """See `features.log_mel`."""

    augmentation: AugmentConfig = section(AugmentConfig)

    @property
    def bands(self) -> int:
        from avatar_core.audio.features import NUM_MELS

        return NUM_MELS

    def hear(self, audio: Tensor) -> Tensor:
        from avatar_core.audio.features import log_mel

        return log_mel(audio)

    def augment(self, features: Tensor, rng: torch.Generator) -> Tensor:
        from avatar_core.audio.augment import augment

        return augment(features, rng, self.augmentation) if self.augmentation.enabled else features


CLEAN = LogMel(AugmentConfig(enabled=False))
