"""Audio features by published speech encoders through transformers: wav2vec 2.0 (also XLS-R), HuBERT, Whisper.

As `phonemes` are: the mean log-mel, then one layer of the encoder, read between its frames (50 Hz) at 100 Hz; takes and
augmentation are those of `phonemes` too. Their attention sees all that it is given: a piece of a long recording is heard with
CONTEXT_S on either side, which is not, to the last digit, what the whole recording gives.

Legend: S samples at 16 kHz, K feature frames at 100 Hz, L frames of the encoder, C its channels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from avatar_core.audio.phonemes import Phonemes
from avatar_core.clock import FPS, SAMPLE_RATE
from avatar_core.config import ranged
from avatar_core.errors import UserError
from avatar_core.models.card import Card, failures, need_packages
from avatar_core.models.files import check_weights, find_model, is_local, verify_folder

if TYPE_CHECKING:
    from torch import Tensor

CONTEXT_S = 2.0
STRIDE = 320  # samples of a frame of all these encoders
EDGE = 400  # samples of silence on either side, so that the first and the last frame lie outside
WHISPER_S = 30  # Whisper's encoder hears exactly so much
AS_PICKLE = "a pickle on the hub: save_pretrained it once where you trust it, and give the folder"


@dataclass(frozen=True)
class PretrainedFeatures(Phonemes):
    """model: a hub id at `revision`, or a local folder with `sha256`; layer: whose output is read, 0 for the last."""

    where: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]  # model_type of config.json
    cards: ClassVar[tuple[Card, ...]]  # the first is the default
    model: str = ""
    revision: str = ""
    sha256: str = ""
    layer: int = ranged(0, 0, 64)

    @property
    def card(self) -> Card:
        model = self._model
        known = next(
            (card for card in self.cards if card.id == model), Card(model, "see its page", "unknown")
        )
        return replace(known, revision=self.sha256 if is_local(model) else self.revision or known.revision)

    def folders(self) -> dict[Path, str]:
        """See `models.card.Published`."""
        return {self._folder(): self.sha256 if is_local(self._model) else ""}

    def lacking(self) -> list[str]:
        """See `models.card.Published`."""
        lines = failures(lambda: need_packages(self.where, "models", "transformers"))
        return list(dict.fromkeys(lines + failures(lambda: check_weights(self._folder()), self._config)))

    @property
    def bands(self) -> int:
        config = self._config()
        return 1 + int(config.get("d_model") or config["hidden_size"])

    @property
    def context(self) -> int:
        return round(CONTEXT_S * FPS)

    def hear(self, audio: Tensor) -> Tensor:
        import torch

        from avatar_core.audio.features import HOP, log_mel

        energy = log_mel(audio).mean(-1, keepdim=True)
        if not len(energy):
            return energy.new_zeros(0, self.bands)
        hidden, first = self._listen(audio.float())
        at = ((torch.arange(len(energy), device=audio.device) + 0.5) * HOP - first) / STRIDE
        at = at.clamp(0, len(hidden) - 1)
        left = at.long().clamp(max=max(0, len(hidden) - 2))
        share = (at - left)[:, None]
        right = (left + 1).clamp(max=len(hidden) - 1)
        return torch.cat([energy, hidden[left] * (1 - share) + hidden[right] * share], -1)

    def _listen(self, audio: Tensor) -> tuple[Tensor, float]:
        """(S,) -> frames (L,C), and the sample in whose middle the first one lies."""
        import torch

        net, options = self._net(str(audio.device))
        padded = torch.nn.functional.pad(audio, (EDGE, EDGE))
        if options.get("do_normalize", False):
            padded = (padded - audio.mean()) / (audio.var(correction=0) + 1e-7).sqrt()
        with torch.no_grad():
            states = net(padded[None], output_hidden_states=True).hidden_states
        return self._chosen(states)[0], 200.0 - EDGE  # a frame is made from 400 samples

    def _chosen(self, states: tuple[Tensor, ...]) -> Tensor:
        if self.layer >= len(states):
            raise UserError(f"{self.where}.layer: expected at most {len(states) - 1}, found {self.layer}")
        return states[self.layer or -1]

    @property
    def _model(self) -> str:
        return self.model or self.cards[0].id

    def _folder(self) -> Path:
        return find_model(self._model, self.card.revision, self.sha256, self.where)

    def _config(self) -> dict[str, Any]:
        path = self._folder() / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(
                f"{path}: expected the configuration of a speech encoder, found none that can be read"
            ) from None
        if config.get("model_type") not in self.kinds:
            raise UserError(
                f"{path}: expected model_type {' or '.join(self.kinds)}, found {config.get('model_type')!r}"
            )
        return config

    def _net(self, device: str) -> tuple[Any, dict[str, Any]]:
        for line in self.lacking():
            raise UserError(line)
        return _load(self._folder(), self.sha256 if is_local(self._model) else "", device)


@dataclass(frozen=True)
class Wav2Vec2(PretrainedFeatures):
    """wav2vec 2.0; XLS-R has heard 128 languages."""

    where: ClassVar[str] = "audio.wav2vec2"
    kinds: ClassVar[tuple[str, ...]] = ("wav2vec2",)
    cards: ClassVar[tuple[Card, ...]] = (
        Card(
            "facebook/wav2vec2-xls-r-300m", "Apache-2.0", "yes", AS_PICKLE,
            revision="1a640f32ac3e39899438a2931f9924c02f080a54",
        ),
        Card(
            "facebook/wav2vec2-base-960h", "Apache-2.0", "yes", "heard English alone",
            revision="22aad52d435eb6dbaf354bdad9b0da84ce7d6156",
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Hubert(PretrainedFeatures):
    """HuBERT; mHuBERT-147 has heard 147 languages, under a licence for non-commercial use."""

    where: ClassVar[str] = "audio.hubert"
    kinds: ClassVar[tuple[str, ...]] = ("hubert",)
    cards: ClassVar[tuple[Card, ...]] = (
        Card(
            "facebook/hubert-base-ls960", "Apache-2.0", "yes", f"heard English alone; {AS_PICKLE}",
            revision="e16f1b664ae8372daa0194c516e976dbae1f5b88",
        ),
        Card(
            "utter-project/mHuBERT-147", "CC BY-NC-SA 4.0", "conditions", "non-commercial use alone",
            revision="a0057d95a4d4cdcc1a8095655dc99767e73a1410",
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Whisper(PretrainedFeatures):
    """Whisper's encoder, which has heard some hundred languages; 30 s at a time, the parts joined where they overlap."""

    where: ClassVar[str] = "audio.whisper"
    kinds: ClassVar[tuple[str, ...]] = ("whisper",)
    cards: ClassVar[tuple[Card, ...]] = (
        Card("openai/whisper-base", "Apache-2.0", "yes", revision="e37978b90ca9030d5170a5c07aadb050351a65bb"),
        Card(
            "openai/whisper-small", "Apache-2.0", "yes", revision="973afd24965f72e36ca33b3055d56a652f456b4d"
        ),
    )

    def _listen(self, audio: Tensor) -> tuple[Tensor, float]:
        import torch
        from transformers import WhisperFeatureExtractor  # pyright: ignore[reportMissingImports]

        net, options = self._net(str(audio.device))
        ears = WhisperFeatureExtractor(feature_size=options.get("feature_size", 80))
        length, overlap = WHISPER_S * SAMPLE_RATE, round(CONTEXT_S * SAMPLE_RATE)
        parts, kept = [], 0
        for start in range(0, max(1, len(audio)), length - 2 * overlap):
            piece = audio[start : start + length].cpu().numpy()
            mel = ears(piece, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features.to(audio.device)
            with torch.no_grad():
                states = net(mel, output_hidden_states=True).hidden_states
            frames = self._chosen(states)[0]
            last = start + length >= len(audio)
            until = -(-(len(audio) - start) // STRIDE) if last else (length - overlap) // STRIDE
            parts.append(frames[kept - start // STRIDE : until])
            kept = start // STRIDE + until
            if last:
                break
        return torch.cat(parts), 0.0


@lru_cache(maxsize=2)
def _load(folder: Path, sha256: str, device: str) -> tuple[Any, dict[str, Any]]:
    """The encoder of a folder on a device, and what its preprocessor's file says. Raises UserError: damaged, or not loadable."""
    import transformers  # pyright: ignore[reportMissingImports]

    if sha256:
        verify_folder(folder, sha256)
    transformers.utils.logging.disable_progress_bar()
    try:
        net = transformers.AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"{folder}: expected a speech encoder that loads, found: {str(error)[:300]}"
        ) from None
    net = net.encoder if net.config.model_type == "whisper" else net
    path = folder / "preprocessor_config.json"
    options = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return net.eval().requires_grad_(False).to(device), options
