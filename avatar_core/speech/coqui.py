"""Speech backend `coqui`: the scripts of data/scripts, spoken by a model of Coqui TTS from a local folder (XTTS-v2, VITS, ...).

Coqui's weights are pickles: they are read only after their folder's digest has been compared, and by torch as tensors alone. XTTS
speaks in the voices of short recordings (`references`), whose people must have agreed.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from avatar_core.clock import SAMPLE_RATE, pad_to_frames
from avatar_core.config import given, list_of, one_of, ranged
from avatar_core.device import Compute
from avatar_core.errors import UserError
from avatar_core.models.card import Card, failures, need_packages, start
from avatar_core.models.files import find_model, verify_folder
from avatar_core.speech.espeak_source import script_lines
from avatar_core.speech.scripts import Line
from avatar_core.speech.types import Speech

if TYPE_CHECKING:
    from torch import Tensor

WHERE = "speech.coqui"
XTTS_COMMIT = "6c2b0d75eae4b7047358e3b6bd9325f857d43f77"  # 2.0.3, of 11 December 2023
LICENCES = {
    "xtts-v2": Card(
        "XTTS-v2", "Coqui Public Model License 1.0", "conditions", "non-commercial use of the model and its output alone",
        gpu_gb=4, revision=XTTS_COMMIT, url="https://huggingface.co/coqui/XTTS-v2",
    ),
    "vits": Card(
        "VITS by Coqui TTS", "see the model's page", "unknown", "licences differ from model to model",
        url="https://github.com/idiap/coqui-ai-TTS/blob/dev/TTS/.models.json",
    ),
}  # fmt: skip
CODES = {"cmn": "zh-cn"}  # where Coqui names a language otherwise
LEVEL_DB = -23.0  # of the active parts, below full scale
ACTIVE_DB = 30.0  # below the loudest 20 ms
PEAK = 0.95


@dataclass(frozen=True)
class CoquiSpeech:
    """path: a folder with config.json and the weights, of the declared `sha256`; references: recordings to clone, one a speaker.

    languages: of the scripts that it shall speak; silence: seconds before and after each sentence.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    preset: str = one_of(*LICENCES)
    path: str = given("the folder of a Coqui model")
    sha256: str = ""
    references: str = ""
    languages: list[str] = list_of("en")
    silence: float = ranged(0.2, 0, 2)

    @property
    def card(self) -> Card:
        return replace(LICENCES[self.preset], revision=self.sha256)

    def folders(self) -> dict[Path, str]:
        """See `models.card.Published`."""
        return {self._folder(): self.sha256}

    def lacking(self) -> list[str]:
        """See `models.card.Published`."""
        lines = failures(lambda: need_packages(WHERE, "coqui", "TTS", "torchaudio"), self._files)
        lines = lines or failures(_need_torchaudio)
        return lines + (failures(self._references) if self.preset == "xtts-v2" else [])

    def lines(self, wanted: Mapping[str, int]) -> list[Line]:
        """All sentences of the scripts in these languages."""
        return script_lines(self.languages, wanted)

    def voices(self, split: str, sex: str | None) -> list[str]:
        """Speakers of a split: recordings' or the model's; no two splits share one where there are three or more."""
        names = (
            [p.name for p in self._references()]
            if self.references or self.preset == "xtts-v2"
            else self._speakers()
        )
        if len(names) < 3:
            return names
        held = max(1, len(names) // 5)
        parts = {"test": names[-held:], "val": names[-2 * held : -held]}
        return parts.get(split, names[: -2 * held])

    def spoken(self, sentences: Sequence[tuple[Line, str]], compute: Compute) -> Iterator[Speech]:
        """Each sentence in its voice, in order, one at a time on the device. Raises UserError before the model is loaded."""
        start(WHERE, self, compute)
        verify_folder(self._folder(), self.sha256)
        model = _load(*self._files(), compute.device)
        for line, voice in sentences:
            yield self._say(model, line, voice)

    def _say(self, model: Any, line: Line, voice: str) -> Speech:
        import torch

        options: dict[str, Any] = {}
        if model.is_multi_lingual:
            options["language"] = CODES.get(line.language, line.language)
        if self.references:
            options["speaker_wav"] = str(Path(self.references, voice))
        elif model.is_multi_speaker:
            options["speaker"] = voice
        seed = int.from_bytes(sha256(f"{voice} {line.text}".encode()).digest()[:6], "big")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                samples = np.asarray(model.tts(line.text, **options), np.float32)
            except (ValueError, KeyError, AssertionError, RuntimeError) as error:
                raise UserError(
                    f"{WHERE}: expected to speak {line.text[:40]!r} in {line.language}, found: {error}"
                ) from None
        audio = levelled(resampled(samples, model.synthesizer.output_sample_rate))
        edge = np.zeros(round(self.silence * SAMPLE_RATE), np.float32)
        return Speech(
            pad_to_frames(np.concatenate([edge, audio, edge])), [], line.text, line.language, Path(voice).stem
        )

    def _folder(self) -> Path:
        if not Path(self.path).is_dir():
            raise UserError(
                f"{WHERE}.path: expected the folder of a Coqui model, found no {self.path}; "
                + (
                    f"hf download coqui/XTTS-v2 --revision {XTTS_COMMIT} --local-dir {self.path}"
                    if self.preset == "xtts-v2"
                    else f"see {self.card.url}"
                )
            )
        return find_model(str(Path(self.path).absolute()), "", self.sha256, WHERE)

    def _files(self) -> tuple[Path, Path]:
        folder = self._folder()
        config = folder / "config.json"
        weights = sorted(p for p in folder.glob("*.pth") if "speaker" not in p.name)
        if not config.is_file() or not weights:
            found = "no weights" if config.is_file() else "no config.json"
            raise UserError(f"{folder}: expected config.json and weights (.pth), found {found}")
        if self.preset == "vits" and len(weights) > 1:
            raise UserError(
                f"{folder}: expected one file of weights, found {', '.join(p.name for p in weights)}"
            )
        return (folder if self.preset == "xtts-v2" else weights[0]), config

    def _references(self) -> list[Path]:
        files = sorted(Path(self.references).glob("*.wav")) if self.references else []
        if not files:
            raise UserError(
                f"{WHERE}.references: expected a folder of recordings (.wav, 6 s or more each) of speakers who agreed, "
                f"found none in {self.references or '(no path)'}"
            )
        return files

    def _speakers(self) -> list[str]:
        import json

        _, config = self._files()
        names = json.loads(config.read_text(encoding="utf-8")).get("speakers")
        return sorted(names) if names else ["default"]


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mono samples of any rate -> (S,) at 16 kHz, by ffmpeg as for recordings."""
    from avatar_core.io.audio import read_audio, write_wav

    with TemporaryDirectory() as folder:
        path = Path(folder, "spoken.wav")
        write_wav(path, samples, rate)
        return read_audio(path)


def levelled(audio: np.ndarray) -> np.ndarray:
    """Active parts at LEVEL_DB below full scale, or as loud as PEAK allows; silence stays."""
    blocks = audio[: len(audio) // 320 * 320].reshape(-1, 320)
    power = (blocks.astype(np.float64) ** 2).mean(1) if len(blocks) else np.zeros(1)
    if power.max() < 1e-10:
        return audio
    active = power[power > power.max() * 10 ** (-ACTIVE_DB / 10)].mean()
    gain = min(10 ** (LEVEL_DB / 20) / np.sqrt(active), PEAK / float(np.abs(audio).max()))
    return (audio * gain).astype(np.float32)


def _need_torchaudio() -> None:
    """Raises UserError where the installed torchaudio does not load: it is built for CUDA alone, and then nothing that uses
    transformers starts either."""
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError) as error:
        raise UserError(
            f"{WHERE}: expected a torchaudio that loads beside your torch, found: {str(error)[:120]}; "
            "without CUDA remove the .so files in its folder torchaudio/lib, its Python suffices"
        ) from None


def _adapt_xtts() -> None:
    """Two things without which XTTS of coqui-tts 0.28.0 does not speak here.

    It reads recordings by a torchcodec that needs ffmpeg's shared libraries; and transformers 5.24 hands `cache` to a model that it
    lets generate, which XTTS knows as `past_key_values`.
    """
    vars(importlib.import_module("TTS.tts.models.xtts"))["load_audio"] = _reference
    network = importlib.import_module("TTS.tts.layers.xtts.gpt_inference").GPT2InferenceModel
    forward = network.forward
    if "cache" in inspect.signature(forward).parameters:
        return

    def with_cache(
        self: object, *values: object, cache: object = None, past_key_values: object = None, **options: object
    ) -> object:
        past = past_key_values if cache is None else cache
        return forward(self, *values, past_key_values=past, **options)

    network.forward = with_cache


def _reference(path: str, rate: int) -> Tensor:
    """A recording to clone (1,S) at a rate; XTTS looks at nothing above 8 kHz."""
    import torch
    import torchaudio  # pyright: ignore[reportMissingImports]

    from avatar_core.io.audio import read_audio

    audio = torch.from_numpy(read_audio(path))[None]
    return torchaudio.functional.resample(audio, SAMPLE_RATE, rate)


@lru_cache(maxsize=1)
def _load(weights: Path, config: Path, device: str) -> Any:
    """The model as TTS.api has it. Raises UserError: it does not load."""
    os.environ.setdefault("COQUI_TOS_AGREED", "0")  # asks nothing, downloads nothing: the files are here
    api = importlib.import_module("TTS.api")
    _adapt_xtts()
    try:
        return api.TTS(model_path=str(weights), config_path=str(config), progress_bar=False).to(device)
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{weights}: expected a Coqui model that loads, found: {str(error)[:300]}") from None
