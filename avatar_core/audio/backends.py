"""What the motion generator hears: a registry of audio features, 100 frames a second. Critics and score teacher hear log-mel.

Legend: B clips, S samples at 16 kHz, K feature frames at 100 Hz (four a picture), M bands or channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from avatar_core.backends import chosen_backends, default_backends, parse_choices
from avatar_core.config import derived_by

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

BACKENDS = {
    "phonemes": "avatar_core.audio.phonemes:Phonemes",
    "log_mel": "avatar_core.audio.mel:LogMel",
    "wav2vec2": "avatar_core.audio.pretrained:Wav2Vec2",
    "hubert": "avatar_core.audio.pretrained:Hubert",
    "whisper": "avatar_core.audio.pretrained:Whisper",
}
ROLES = {"backend": BACKENDS}


class AudioFeatures(Protocol):
    @property
    def bands(self) -> int:
        """M."""
        ...

    @property
    def context(self) -> int:
        """Pictures on either side that a piece of sound needs, so that what is heard in it is what the whole recording gives."""
        ...

    def prepare(self, audio: np.ndarray) -> np.ndarray:
        """A whole recording (S,) -> the sound (S,) that `hear` is made for, such as one at the right level."""
        ...

    def hear(self, audio: Tensor) -> Tensor:
        """Prepared sound (S,), or a piece of it -> features (K,M), K = S // 160."""
        ...

    def hear_takes(
        self, audio: np.ndarray, others: Sequence[np.ndarray], rng: np.random.Generator, device: str = "cpu"
    ) -> Tensor:
        """(V,K,M) of a training recording (S,) in other voices, rooms and noises; babble is made of `others`. V may be 0.

        Heard on a device, the result is on the CPU.
        """
        ...

    def augment(self, features: Tensor, rng: torch.Generator) -> Tensor:
        """Training features (B,K,M), each clip changed in a way that leaves the times of its sounds as they are."""
        ...


@dataclass(frozen=True)
class AudioConfig:
    """Which features; their parameters in a section of their name."""

    backend: str = "phonemes"
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
