"""What the speech stage makes: audio with exactly timed phonemes.

S = samples at 16 kHz; a clip of T frames at 25 fps has exactly S = 640 T samples.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatar_core.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from avatar_core.errors import UserError


@dataclass(frozen=True)
class Phoneme:
    """One sound: [start_s, end_s) in seconds, its IPA symbol without stress marks ("" = pause), stressed or not."""

    start_s: float
    end_s: float
    ipa: str
    stress: bool


@dataclass(frozen=True)
class Speech:
    """audio (S,) float32 in [-1, 1], mono 16 kHz, S a multiple of 640; phonemes in order, without gaps."""

    audio: np.ndarray
    phonemes: list[Phoneme]
    text: str
    language: str
    voice: str

    @property
    def num_frames(self) -> int:
        """Frames at 25 fps."""
        return len(self.audio) // SAMPLES_PER_FRAME

    @property
    def duration_s(self) -> float:
        """Seconds."""
        return len(self.audio) / SAMPLE_RATE


def phonemes_to_json(speech: Speech) -> str:
    """The text, language, voice and phonemes of `speech` as JSON (the audio lives in its wav file)."""
    rows = [
        {"start_s": round(p.start_s, 6), "end_s": round(p.end_s, 6), "ipa": p.ipa, "stress": p.stress}
        for p in speech.phonemes
    ]
    document = {"text": speech.text, "language": speech.language, "voice": speech.voice, "phonemes": rows}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def phonemes_from_json(path: Path | str, audio: np.ndarray) -> Speech:
    """Read what `phonemes_to_json` wrote and join it to its audio (S,).

    Raises:
        UserError: the file is missing, not JSON, or a row lacks a field or has times out of order.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UserError(f"{path}: expected a phoneme file, found none ({problem.strerror})") from None
    except ValueError:
        raise UserError(f"{path}: expected JSON with a list 'phonemes', found something else") from None
    if isinstance(document, list):
        document = {"phonemes": document}
    rows = document.get("phonemes") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list under the key 'phonemes', found {type(rows).__name__}")
    phonemes = [_read_row(path, i, row) for i, row in enumerate(rows)]
    for i, (left, right) in enumerate(zip(phonemes, phonemes[1:], strict=False)):
        if right.start_s < left.end_s - 1e-3:
            raise UserError(
                f"{path}: phonemes[{i + 1}] starts at {right.start_s} s, before the end of the last one"
            )
    text, language, voice = (str(document.get(key, "")) for key in ("text", "language", "voice"))
    return Speech(audio, phonemes, text, language, voice)


def _read_row(path: Path, i: int, row: object) -> Phoneme:
    if not isinstance(row, dict) or not {"start_s", "end_s", "ipa"} <= row.keys():
        raise UserError(f"{path}: phonemes[{i}] must have the keys start_s, end_s, ipa (and stress)")
    try:
        start, end = float(row["start_s"]), float(row["end_s"])
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: phonemes[{i}] must have times in seconds, found {row['start_s']!r}"
        ) from None
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start <= end):
        raise UserError(f"{path}: phonemes[{i}] must have 0 <= start_s <= end_s, found {start} and {end}")
    return Phoneme(start, end, str(row["ipa"]), bool(row.get("stress", False)))
