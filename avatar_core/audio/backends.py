"""What the motion generator hears: a registry of audio features, 100 frames a second. Critics and score teacher hear log-mel.

Legend: B clips, S samples at 16 kHz, K feature frames at 100 Hz (four a picture), M bands or channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from avatar_core.backends import chosen_backends, default_backends, parse_choices
from avatar_core.config import derived_by

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BACKENDS = {"log_mel": "avatar_core.audio.mel:LogMel"}
ROLES = {"backend": BACKENDS}


class AudioFeatures(Protocol):
    @property
    def bands(self) -> int:
        """M."""
        ...

    def hear(self, audio: Tensor) -> Tensor:
        """Sound (S,) -> features (K,M), K = S // 160; frame k knows nothing beyond a few frames round it."""
        ...

    def augment(self, features: Tensor, rng: torch.Generator) -> Tensor:
        """Training features (B,K,M), each clip changed in a way that leaves the times of its sounds as they are."""
        ...


@dataclass(frozen=True)
class AudioConfig:
    """Which features; their parameters in a section of their name."""

    backend: str = "log_mel"
    chosen: dict[str, Any] = derived_by(lambda: default_backends(ROLES, AudioConfig))

    @classmethod
    def parse(cls, raw: Mapping[str, Any], file: str, key: str) -> AudioConfig:
        """Raises UserError naming `file` and the key below `key`."""
        return parse_choices(cls, ROLES, raw, file, key)

    def to_dict(self) -> dict[str, Any]:
        """What `parse` reads, for a checkpoint's sidecar."""
        return chosen_backends(ROLES, self)

    @property
    def features(self) -> AudioFeatures:
        return cast(AudioFeatures, self.chosen["backend"])
