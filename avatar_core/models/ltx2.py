"""LTX-2 of Lightricks: what its teacher and its score have in common. Names, licence, and how its audio autoencoder is spoken to.

Legend: S samples at 16 kHz, M mel bands of the autoencoder, L latents of sound at 25 a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from avatar_core.clock import SAMPLE_RATE
from avatar_core.errors import UserError
from avatar_core.models.card import Card, failures, need_packages
from avatar_core.models.files import check_pipeline, find_model, is_local, verify_folder
from avatar_core.models.pipeline import PACKAGES

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MODEL = "Lightricks/LTX-2.5-Diffusers"
FFT_SIZE = 1024  # of the audio autoencoder's spectrograms
FLOOR = 1e-5
STEP = 8  # pictures of a latent: a video has 1 + 8 n of them


@dataclass(frozen=True)
class LTX2Model:
    """model: a hub id at `revision`, or a local folder with `sha256`. Subclasses say in `check_sizes` what else must hold."""

    where: ClassVar[str]  # the key of its section
    model: str = MODEL
    revision: str = ""
    sha256: str = ""

    @property
    def card(self) -> Card:
        local = is_local(self.model)
        return Card(
            Path(self.model).name if local else self.model, "LTX-2.x Community License", "conditions",
            "models trained on its output are derivatives (1.5) and keep its terms (3); companies of USD 10M a year must pay (2.1)",
            revision=self.sha256 if local else self.revision, url="https://huggingface.co/Lightricks",
        )  # fmt: skip

    def check_sizes(self) -> None:
        """Raises UserError for sizes that the model cannot make."""

    def folders(self) -> dict[Path, str]:
        """See `models.card.Published`."""
        return {self.folder(): self.sha256 if is_local(self.model) else ""}

    def lacking(self) -> list[str]:
        """See `models.card.Published`."""
        lines = failures(lambda: need_packages(self.where, "models", *PACKAGES, "av"), self.check_sizes)
        return lines + failures(self._check_class)

    def checked_folder(self) -> Path:
        """The model's folder; a local one is read and compared with its digest. Raises UserError."""
        folder = self.folder()
        if is_local(self.model):
            verify_folder(folder, self.sha256)
        return folder

    def folder(self) -> Path:
        """Where it lies. Raises UserError: nowhere, or undeclared."""
        return find_model(self.model, self.revision, self.sha256, self.where)

    def _check_class(self) -> None:
        found = check_pipeline(self.folder())["_class_name"]
        if not found.startswith("LTX2"):
            raise UserError(f"{self.where}.model: expected a pipeline LTX2..., found {found}")


def encode_sound(vae: Any, mel: Tensor, device: torch.device | str) -> Tensor:
    """`log_mel` (B,K,M) -> latents (B,C,L,M/4) of an AutoencoderKLLTX2Audio that runs on a device, K = 4 L; not normalised.

    Both channels are the same.
    """
    import torch

    heard = mel[:, None].expand(-1, vae.config["in_channels"], -1, -1)
    with torch.no_grad():
        return vae.encode(heard.to(device, vae.dtype)).latent_dist.mode().float()


def check_rate(rate: int, where: str) -> None:
    """Raises UserError, starting with `where`, for an audio autoencoder of another rate than ours."""
    if rate != SAMPLE_RATE:
        raise UserError(f"{where}.model: expected an audio autoencoder of {SAMPLE_RATE} Hz, found {rate} Hz")


def log_mel(audio: Tensor, hop: int, bins: int) -> Tensor:
    """(S,) at 16 kHz -> (frames, bins) natural logarithm of mel magnitudes; frame k is centred at k hop.

    As Lightricks' own code prepares sound: magnitudes of 1024-sample Hann windows, Slaney's mel filters.
    """
    import torch
    from transformers.audio_utils import mel_filter_bank  # pyright: ignore[reportMissingImports]

    window = torch.hann_window(FFT_SIZE)
    spectrum = torch.stft(
        audio, FFT_SIZE, hop, window=window, center=True, pad_mode="reflect", return_complex=True
    ).abs()
    filters = mel_filter_bank(
        FFT_SIZE // 2 + 1, bins, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.log((spectrum.T @ torch.from_numpy(filters).float()).clamp(min=FLOOR))
