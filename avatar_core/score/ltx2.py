"""Score teacher `ltx2`: LTX-2's denoiser, a video model that hears; it sees whole pictures, not the mouth alone.

Stage `score` trains nothing: it puts the prompts through the text encoder, which is then done with, and keeps them in its
checkpoint. Stage `distill` loads denoiser and autoencoders. How a velocity becomes the paper's score: `score.flow`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from avatar_core.config import one_of, ranged
from avatar_core.errors import UserError
from avatar_core.models.ltx2 import STEP, LTX2Model, log_mel
from avatar_core.models.pipeline import DTYPES, load_part

if TYPE_CHECKING:
    from torch import Tensor

    from avatar_core.device import Compute
    from avatar_core.progress import Progress
    from avatar_core.score.clips import ScoreClip
    from avatar_core.score.ltx2_network import LTX2Network
    from avatar_core.training.loop import History

PROMPT = (
    "A realistic video of a person speaking directly to the camera, with natural head movements and expressive hand gestures. "
    "The camera is still, the background does not move."
)
NEGATIVE = "blurry, distorted face, deformed hands, jittery motion, mismatched lip sync, low quality"
MEL_HOP, MEL_BINS = 160, 64  # of the audio autoencoder, checked when it is loaded


@dataclass(frozen=True)
class LTX2Score(LTX2Model):
    """size: px of a square picture; frames: 1 + 8 n of them.

    text_guidance: 1 for none, else each step calls the denoiser once more with the negative prompt; `distill.vsd_guidance` is
    the sound's. checkpointing: the autoencoder and a learning denoiser keep less, and compute twice.
    """

    where: ClassVar[str] = "score.ltx2"
    mouth: ClassVar[bool] = False
    size: int = ranged(256, 32, 2048)
    frames: int = ranged(25, 9, 257)
    prompt: str = PROMPT
    negative_prompt: str = NEGATIVE
    text_guidance: float = ranged(3.0, 1, 20)
    dtype: str = one_of("bf16", *DTYPES)
    checkpointing: bool = True

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

    def train(
        self,
        clips: Sequence[ScoreClip],
        seed: int,
        checkpoint_dir: Path,
        progress: Progress,
        compute: Compute,
    ) -> tuple[LTX2Network, History]:
        """The published weights with our prompts; nothing learns."""
        from avatar_core.score.ltx2_network import prompt_tensors

        folder = self._checked()
        if not any(len(clip.frames) >= self.frames for clip in clips):
            raise UserError(
                f"{self.where}.frames: expected clips of {self.frames} frames, found shorter ones alone"
            )
        nothing = dict.fromkeys(("transformer", "vae", "audio_vae", "vocoder"))
        pipeline = load_part("LTX2Pipeline", folder, self.dtype, **nothing).to(compute.device)
        prompts = prompt_tensors(pipeline, self.prompt, self.negative_prompt)
        del pipeline  # the text encoder is as large as the denoiser
        return self._network(folder, prompts).to(compute.device), []

    def load(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> LTX2Network:
        """What `train` left of a score stage's prompts, with the weights where they lie."""
        if config.get("model") != self.card.id or config.get("revision") != self.card.revision:
            raise UserError(
                f"{self.where}: expected prompts of {self.card.id}, found those of {config.get('model')}; run `dvc repro score`"
            )
        return self._network(self._checked(), tensors)

    def evaluate(
        self, teacher: LTX2Network, clips: Sequence[ScoreClip], seed: int = 0
    ) -> dict[str, float | None]:
        from avatar_core.score.flow import evaluate_flow

        return evaluate_flow(teacher, clips, seed)

    def _network(self, folder: Path, prompts: Mapping[str, Tensor]) -> LTX2Network:
        from avatar_core.score.ltx2_network import LTX2Network

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
            transformer, vae, audio_vae, prompts, self.frames, self.size, self.text_guidance, self.card.row
        )

    def _checked(self) -> Path:
        for line in self.lacking():
            raise UserError(line)
        return self.checked_folder()
