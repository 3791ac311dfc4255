"""The voice that drives an avatar: a recording of the user's, or a text spoken by the speech backend.

S samples at 16 kHz, mono: what the networks hear. The video carries the recording as it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatar_core.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from avatar_core.errors import UserError
from avatar_core.io.audio import Soundtrack, read_soundtrack
from avatar_core.speech.espeak import synthesize
from avatar_core.speech.voices import DEFAULT_VOICE


@dataclass(frozen=True)
class Sound:
    """samples (S,): what the networks hear; track: what the video carries, None for the samples themselves."""

    samples: np.ndarray
    track: Soundtrack | None


def read_sound(
    audio: Path | None, text: str | None, language: str, voice: str | None, preview_s: float | None = None
) -> Sound:
    """The sound file `audio` or the spoken `text`, one of the two; `preview_s`: only its first seconds.

    Raises UserError: neither or both given, a sound that cannot be read, a text that cannot be spoken.
    """
    track = None
    if audio is not None and text is None:
        samples, track = read_soundtrack(audio)
    elif text is not None and audio is None:
        samples = synthesize(text, language, voice or DEFAULT_VOICE).audio
    else:
        found = "neither" if audio is None else "both"
        raise UserError(f"voice: expected one of --audio and --text, found {found}")
    return Sound(samples if preview_s is None else samples[: max(1, round(preview_s * SAMPLE_RATE))], track)


def check_sound(audio: np.ndarray) -> None:
    """Raises UserError unless audio is (S,), finite and at least one frame (0.04 s) long."""
    audio = np.asarray(audio)
    if audio.ndim != 1 or len(audio) < SAMPLES_PER_FRAME:
        raise UserError(f"audio: expected at least 0.04 s of mono sound, found shape {audio.shape}")
    if not np.isfinite(audio).all():
        raise UserError("audio: expected finite samples, found NaN or infinity")
