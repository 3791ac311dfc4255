"""LTX-2 of Lightricks: what its teacher and its score have in common. Names, licence, and how its audio autoencoder is spoken to.

Legend: S samples at 16 kHz, M mel bands of the autoencoder, L latents of sound at 25 a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar_core.clock import SAMPLE_RATE
from avatar_core.errors import UserError
from avatar_core.models.card import Card
from avatar_core.models.files import is_local

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MODEL = "Lightricks/LTX-2.5-Diffusers"
FFT_SIZE = 1024  # of the audio autoencoder's spectrograms
FLOOR = 1e-5
STEP = 8  # pictures of a latent: a video has 1 + 8 n of them


def card_of(model: str, revision: str, sha256: str) -> Card:
    """The card of a hub id at a commit, or of a local folder with a digest."""
    local = is_local(model)
    return Card(
        Path(model).name if local else model, "LTX-2 community licence", "conditions",
        "models trained on its output count as derivatives; companies above USD 10M of revenue need a paid licence",
        revision=sha256 if local else revision, url="https://huggingface.co/Lightricks",
    )  # fmt: skip


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
