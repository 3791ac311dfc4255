"""Audio features that carry over from a synthesiser to human voices: a phoneme encoder's, with the loudness beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_core.audio.config import TakeConfig
from avatar_core.config import ranged, section
from avatar_core.errors import warn

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

_SAID_DB = 18.0


@dataclass(frozen=True)
class Phonemes:
    """M = 1 + 144: mean log-mel, then the encoder's output, read between its frames (50 Hz) at 100 Hz. See `encoder`."""

    takes: TakeConfig = section(TakeConfig)
    energy_sd: float = ranged(0.5, 0, 5)  # nepers of power, of a training window's loudness
    noise: float = ranged(0.15, 0, 2)  # of the features' deviation, added to training windows

    @property
    def bands(self) -> int:
        from avatar_core.audio.encoder import CHANNELS

        return 1 + CHANNELS

    @property
    def context(self) -> int:
        from avatar_core.audio.encoder import phoneme_encoder

        return (
            phoneme_encoder().context // 2 + 2
        )  # two of the encoder's frames a picture; a window's last frame is read held

    def prepare(self, audio: np.ndarray) -> np.ndarray:
        from avatar_core.audio.level import level_gain_db, to_level

        gain = level_gain_db(audio)
        if abs(gain) >= _SAID_DB:
            kind = "quiet" if gain > 0 else "loud"
            warn(
                f"sound: its active parts are {kind}; the lips hear them {gain:+.0f} dB louder, the video keeps them as they are"
            )
        return to_level(audio)

    def hear(self, audio: Tensor) -> Tensor:
        import torch

        from avatar_core.audio.encoder import FRAME_SAMPLES, phoneme_encoder
        from avatar_core.audio.features import HOP, log_mel

        energy = log_mel(audio).mean(-1, keepdim=True)
        hidden = phoneme_encoder(audio.device)(audio)
        at = (torch.arange(len(energy), device=audio.device) + 0.5) * HOP / FRAME_SAMPLES
        left = at.long().clamp(max=max(0, len(hidden) - 2))
        share = (at - left).clamp(max=1)[:, None]
        right = (left + 1).clamp(max=len(hidden) - 1)
        return torch.cat([energy, hidden[left] * (1 - share) + hidden[right] * share], -1)

    def hear_takes(
        self, audio: np.ndarray, others: Sequence[np.ndarray], rng: np.random.Generator, device: str = "cpu"
    ) -> Tensor:
        import torch

        from avatar_core.audio.takes import make_take

        made = [make_take(audio, others, self.takes, rng) for _ in range(self.takes.count)]
        heard = [self.hear(torch.from_numpy(take).to(device)).cpu() for take in made]
        return torch.stack(heard) if heard else torch.zeros(0, len(audio) // 160, self.bands, device="cpu")

    def augment(self, features: Tensor, rng: torch.Generator) -> Tensor:
        import torch

        energy, hidden = features[..., :1], features[..., 1:]
        energy = energy + self.energy_sd * torch.randn(len(features), 1, 1, generator=rng, device="cpu")
        hidden = hidden + self.noise * hidden.std() * torch.randn(hidden.shape, generator=rng, device="cpu")
        return torch.cat([energy, hidden], -1)
