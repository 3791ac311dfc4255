"""Score teacher `wan_s2v`: the denoiser of Wan2.2-S2V-14B, 16 pictures a second; it sees whole pictures, not the mouth alone.

Its autoencoder and text encoder are published as pickles; the same ones lie as safetensors in Wan2.1's folders for diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from avatar_core.clock import MEL_PER_FRAME, SAMPLES_PER_FRAME
from avatar_core.config import ranged, section
from avatar_core.errors import UserError
from avatar_core.models.card import Card, failures, need_packages
from avatar_core.models.files import check_weights, find_model, is_local, verify_folder
from avatar_core.models.pipeline import PACKAGES, load_part, torch_dtype
from avatar_core.models.wan_s2v import load_denoiser, need_diffsynth, read_config
from avatar_core.score.published import PublishedScore

if TYPE_CHECKING:
    from torch import Tensor

    from avatar_core.score.wan_s2v_network import WanS2VNetwork

LISTENER = "wav2vec2-large-xlsr-53-english"  # a folder beside the denoiser
ROW = SAMPLES_PER_FRAME // MEL_PER_FRAME


@dataclass(frozen=True)
class Parts:
    """Where autoencoder (`vae`), `text_encoder` and `tokenizer` lie, as diffusers saves them: a hub id at `revision`, or a local
    folder with `sha256`."""

    model: str = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    revision: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class WanS2VScore(PublishedScore):
    """model: a hub id at `revision`, or a local folder with `sha256`, as Wan2.2-S2V-14B is published; frames: of 25 a second,
    of which it sees those nearest to 16 a second, 1 + 4 n of them (26: 17). checkpointing: of a learning denoiser alone."""

    where: ClassVar[str] = "score.wan_s2v"
    model: str = "Wan-AI/Wan2.2-S2V-14B"
    revision: str = ""
    sha256: str = ""
    parts: Parts = section(Parts)
    size: int = ranged(256, 64, 2048)
    frames: int = ranged(26, 8, 257)
    text_guidance: float = ranged(4.5, 1, 20)

    @property
    def card(self) -> Card:
        local = is_local(self.model)
        return Card(
            Path(self.model).name if local else self.model, "Apache-2.0", "yes", gpu_gb=40,
            revision=self.sha256 if local else self.revision, url="https://huggingface.co/Wan-AI",
        )  # fmt: skip

    @property
    def about(self) -> dict[str, str]:
        return self.card.row | {"parts": self.parts.sha256 or self.parts.revision}

    def folders(self) -> dict[Path, str]:
        """See `models.card.Published`."""
        return {
            self._folder(): self.sha256 if is_local(self.model) else "",
            self._parts(): self.parts.sha256 if is_local(self.parts.model) else "",
        }

    def lacking(self) -> list[str]:
        """See `models.card.Published`."""
        return failures(
            lambda: need_packages(self.where, "models", *PACKAGES),
            lambda: need_diffsynth(self.where),
            self._check_size,
            self._check_model,
            self._check_parts,
        )

    def verify(self) -> None:
        for folder, sha256 in self.folders().items():
            if sha256:
                verify_folder(folder, sha256)

    def hear(self, audio: Tensor) -> Tensor:
        """See `score.ScoreBackend`: the samples themselves, 160 a row, of mean 0 and variance 1 as the listener takes them."""
        samples = (audio - audio.mean()) / (audio.var(correction=0) + 1e-7).sqrt()
        return samples[: len(samples) // ROW * ROW].view(-1, ROW)

    def prompts(self, device: str) -> dict[str, Tensor]:
        from avatar_core.score.wan_s2v_network import prompt_tensors

        pipeline = load_part("WanPipeline", self._parts(), self.dtype, transformer=None, vae=None).to(device)
        return prompt_tensors(pipeline, self.prompt, self.negative_prompt)

    def network(self, prompts: Mapping[str, Tensor]) -> WanS2VNetwork:
        from avatar_core.score.wan_s2v_network import WanS2VNetwork

        transformer = load_denoiser(self._folder(), torch_dtype(self.dtype))
        vae = load_part("AutoencoderKLWan", self._parts() / "vae", self.dtype)
        listener = load_part("Wav2Vec2ForCTC", self._folder() / LISTENER, self.dtype).wav2vec2
        return WanS2VNetwork(
            transformer, vae, listener, prompts, self.frames, self.size, self.text_guidance, self.checkpointing, self.about
        )  # fmt: skip

    def _folder(self) -> Path:
        return find_model(self.model, self.revision, self.sha256, self.where)

    def _parts(self) -> Path:
        return find_model(self.parts.model, self.parts.revision, self.parts.sha256, f"{self.where}.parts")

    def _check_size(self) -> None:
        if self.size % 16:
            raise UserError(f"{self.where}.size: expected a multiple of 16, found {self.size}")

    def _check_model(self) -> None:
        folder = self._folder()
        read_config(folder)
        check_weights(folder)
        check_weights(folder / LISTENER)

    def _check_parts(self) -> None:
        folder = self._parts()
        for name in ("vae", "text_encoder"):
            check_weights(folder / name)
        for name in ("model_index.json", "tokenizer"):
            if not (folder / name).exists():
                raise UserError(f"{folder / name}: expected a part of Wan for diffusers, found none")
