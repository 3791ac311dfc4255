"""Score teacher `ltx2`: LTX-2's denoiser, a video model that hears; it sees whole pictures, not the mouth alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from avatar_core.config import ranged
from avatar_core.errors import UserError
from avatar_core.models.ltx2 import STEP, LTX2Model, log_mel
from avatar_core.models.pipeline import load_part
from avatar_core.score.published import PublishedScore

if TYPE_CHECKING:
    from torch import Tensor

    from avatar_core.score.ltx2_network import LTX2Network

MEL_HOP, MEL_BINS = 160, 64  # of the audio autoencoder, checked when it is loaded


@dataclass(frozen=True)
class LTX2Score(LTX2Model, PublishedScore):
    """frames: 1 + 8 n of them."""

    where: ClassVar[str] = "score.ltx2"
    frames: int = ranged(25, 9, 257)

    def check_sizes(self) -> None:
        if self.size % 32:
            raise UserError(f"{self.where}.size: expected a multiple of 32, found {self.size}")
        if self.frames % STEP != 1:
            raise UserError(
                f"{self.where}.frames: expected 1 more than a multiple of {STEP}, found {self.frames}"
            )

    def hear(self, audio: Tensor) -> Tensor:
        """See `score.ScoreBackend`: as the audio autoencoder was trained to hear."""
        rows = log_mel(audio, MEL_HOP, MEL_BINS)
        return rows[: len(audio) // MEL_HOP]

    def verify(self) -> None:
        self.checked_folder()

    def prompts(self, device: str) -> dict[str, Tensor]:
        from avatar_core.score.ltx2_network import prompt_tensors

        nothing = dict.fromkeys(("transformer", "vae", "audio_vae", "vocoder"))
        pipeline = load_part("LTX2Pipeline", self.folder(), self.dtype, **nothing).to(device)
        return prompt_tensors(pipeline, self.prompt, self.negative_prompt)

    def network(self, prompts: Mapping[str, Tensor]) -> LTX2Network:
        from avatar_core.score.ltx2_network import LTX2Network

        folder = self.folder()
        transformer, vae, audio_vae = (
            load_part(cls, folder / name, self.dtype)
            for cls, name in (
                ("LTX2VideoTransformer3DModel", "transformer"),
                ("AutoencoderKLLTX2Video", "vae"),
                ("AutoencoderKLLTX2Audio", "audio_vae"),
            )
        )
        found = tuple(audio_vae.config[name] for name in ("sample_rate", "mel_hop_length", "mel_bins"))
        if found != (16000, MEL_HOP, MEL_BINS):
            raise UserError(
                f"{folder / 'audio_vae'}: expected sound of 16000 Hz, hop {MEL_HOP}, {MEL_BINS} bands, found {found}"
            )
        if self.checkpointing:
            transformer.enable_gradient_checkpointing()
            vae.enable_gradient_checkpointing()
        return LTX2Network(
            transformer, vae, audio_vae, prompts, self.frames, self.size, self.text_guidance, self.about
        )
