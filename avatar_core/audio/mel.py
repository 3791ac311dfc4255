"""Log-mel as the generator's audio features, with its augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_core.audio.config import AugmentConfig
from avatar_core.config import section

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class LogMel:
    """See `features.log_mel`. The augmentation works on the features, so there are no takes."""

    augmentation: AugmentConfig = section(AugmentConfig)

    @property
    def bands(self) -> int:
        from avatar_core.audio.features import NUM_MELS

        return NUM_MELS

    @property
    def context(self) -> int:
        return 1

    def prepare(self, audio: np.ndarray) -> np.ndarray:
        return audio

    def hear(self, audio: Tensor) -> Tensor:
        from avatar_core.audio.features import log_mel

        return log_mel(audio)

    def hear_takes(
        self, audio: np.ndarray, others: Sequence[np.ndarray], rng: np.random.Generator, device: str = "cpu"
    ) -> Tensor:
        import torch

        return torch.zeros(0, len(audio) // 160, self.bands, device="cpu")

    def augment(self, features: Tensor, rng: torch.Generator) -> Tensor:
        from avatar_core.audio.augment import augment

        return augment(features, rng, self.augmentation) if self.augmentation.enabled else features


CLEAN = LogMel(AugmentConfig(enabled=False))
