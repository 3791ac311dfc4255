"""The voice that drives an avatar: a recording of the user's, or a text spoken by the speech backend.

S samples at 16 kHz.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatar_core.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio
from avatar_core.speech.espeak import synthesize
from avatar_core.speech.voices import DEFAULT_VOICE


def read_sound(
    audio: Path | None, text: str | None, language: str, voice: str | None, preview_s: float | None = None
) -> np.ndarray:
    """(S,) float32: the sound file `audio` or the spoken `text`, one of the two; `preview_s`: only its first seconds.

    Raises UserError: neither or both given, a sound that cannot be read, a text that cannot be spoken.
    """
    if audio is not None and text is None:
        sound = read_audio(audio)
    elif text is not None and audio is None:
        sound = synthesize(text, language, voice or DEFAULT_VOICE).audio
    else:
        found = "neither" if audio is None else "both"
        raise UserError(f"voice: expected one of --audio and --text, found {found}")
    return sound if preview_s is None else sound[: max(1, round(preview_s * SAMPLE_RATE))]


def check_sound(audio: np.ndarray) -> None:
    """Raises UserError unless audio is (S,), finite and at least one frame (0.04 s) long."""
    audio = np.asarray(audio)
    if audio.ndim != 1 or len(audio) < SAMPLES_PER_FRAME:
        raise UserError(f"audio: expected at least 0.04 s of mono sound, found shape {audio.shape}")
    if not np.isfinite(audio).all():
        raise UserError("audio: expected finite samples, found NaN or infinity")
