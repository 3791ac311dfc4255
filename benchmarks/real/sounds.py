"""Recordings, talking clips and sounds without a voice: what the lips do with them.

T frames at 25 fps, S samples at 16 kHz. Openings are millimetres over the avatar's own rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from avatar_core.audio.backgrounds import coloured_noise, music
from avatar_core.audio.features import log_mel
from avatar_core.clock import MEL_PER_FRAME, SAMPLE_RATE
from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio
from benchmarks.real.lips import aligned, at_lag, judge_closures, seen_lips

LAGS = tuple(range(-3, 4))
NEAR = slice(1, 6)  # lags of -2 .. 2 frames
Opening = Callable[[np.ndarray], np.ndarray]  # sound (S,) -> lip opening (T,) mm


@dataclass(frozen=True)
class VoiceRow:
    """One recording. mean_mm, wide_mm (95th percentile) of the opening; quiet_mm: its mean 40 dB down; p, b, m that close the lips
    of all, AUC of openings there against other sounds; note: why there are none of these, or no numbers at all."""

    name: str
    seconds: float
    mean_mm: float
    wide_mm: float
    quiet_mm: float
    closed: int
    sounds: int
    auc: float
    note: str


@dataclass(frozen=True)
class ClipRow:
    """One talking clip. own: correlation of our lips with those seen at `LAGS` frames earlier; loudness: that of the loudness
    curve; other: mean of our lips driven by the other clips' sounds, at no lag; note: why there are no numbers."""

    name: str
    frames: int
    own: tuple[float, ...]
    loudness: tuple[float, ...]
    other: float
    note: str


@dataclass(frozen=True)
class Curves:
    """Of one clip: our opening (T,) mm, the lips seen (T,), the sound's level (T,) in log-mel."""

    ours: np.ndarray
    seen: np.ndarray
    level: np.ndarray


def judge_voice(path: Path, opening: Opening) -> tuple[VoiceRow, np.ndarray, list[tuple[float, float, str]]]:
    """The row, the opening (T,), and the aligned sounds ([] without a text beside the recording)."""
    nan = float("nan")
    try:
        audio = read_audio(path)
    except UserError as error:
        return (
            VoiceRow(path.name, 0, nan, nan, nan, 0, 0, nan, str(error).removeprefix(f"{path}: ")),
            np.zeros(0),
            [],
        )
    ours, quiet = opening(audio), opening(audio * np.float32(0.01))
    text, sounds, note = path.with_suffix(".txt"), [], ""
    closed, count, auc = 0, 0, nan
    if text.is_file():
        try:
            sounds = aligned(audio, text.read_text())
            found = judge_closures(ours, sounds)
            closed, count, auc = found.closed, found.sounds, found.auc
        except UserError as error:
            note = str(error)
    else:
        note = "no text beside it"
    mean, wide = float(ours.mean()), float(np.quantile(ours, 0.95))
    row = VoiceRow(
        path.name, len(audio) / SAMPLE_RATE, mean, wide, float(quiet.mean()), closed, count, auc, note
    )
    return row, ours, sounds


def look_at_clip(path: Path, opening: Opening) -> Curves:
    """Raises UserError: not a video with sound, no face in most of its frames."""
    audio, seen = read_audio(path), seen_lips(path)
    if np.isfinite(seen).mean() < 0.5:
        raise UserError(
            f"{path}: expected a face in most frames, found one in {np.isfinite(seen).mean():.0%}"
        )
    level = log_mel(torch.from_numpy(audio)).mean(-1).numpy()
    level = level[: len(level) // MEL_PER_FRAME * MEL_PER_FRAME].reshape(-1, MEL_PER_FRAME).mean(1)
    return Curves(opening(audio), seen, level)


def judge_clip(name: str, curves: dict[str, Curves]) -> ClipRow:
    """The row of one clip among all that could be looked at."""
    clip = curves[name]
    own = tuple(at_lag(clip.ours, clip.seen, k) for k in LAGS)
    loudness = tuple(at_lag(clip.level, clip.seen, k) for k in LAGS)
    others = [at_lag(c.ours, clip.seen, 0) for other, c in curves.items() if other != name]
    return ClipRow(
        name, len(clip.seen), own, loudness, float(np.mean(others)) if others else float("nan"), ""
    )


def judge_without_voices(opening: Opening) -> list[VoiceRow]:
    """Digital silence, noise and music made here: the mouth stays shut."""
    rng, samples = np.random.default_rng(0), 8 * SAMPLE_RATE
    sounds = {"digital silence": np.zeros(samples)}
    sounds |= {
        f"noise at {level} dB": coloured_noise(rng, samples) * 10 ** (level / 20) for level in (-70, -50, -30)
    }
    sounds |= {f"music {k}": music(rng, samples) * 0.1 for k in range(4)}
    rows = []
    for name, sound in sounds.items():
        ours = opening(sound.astype(np.float32))
        nan, wide = float("nan"), float(np.quantile(ours, 0.95))
        rows.append(VoiceRow(name, 8.0, float(ours.mean()), wide, nan, 0, 0, nan, "no voice"))
    return rows
