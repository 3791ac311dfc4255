"""Lips on human voices and against real talking people.

Beside NAME.wav a text NAME.txt of what is said gives the closures of p, b, m by forced alignment (pocketsphinx, where it is
installed): the share that comes within CLOSED of the clip's own range of its rest, and the AUC of openings at p, b, m against
those at other sounds. Lips seen: the inner gap by the height of the face, from the face mesh.

T frames at 25 fps, S samples at 16 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatar_core.clock import FPS, SAMPLE_RATE
from avatar_core.errors import UserError
from avatar_core.ingest.faces import FaceShape
from avatar_core.io.video import iterate_video
from avatar_core.metrics.mouth import correlation
from avatar_core.perception.holistic.video import HolisticFaces

CLOSED = 0.12  # of the way from the clip's rest (3rd percentile) to its 95th percentile
BILABIAL = ("P", "B", "M")
SILENT = ("SIL", "+SPN+", "+NSN+")


@dataclass(frozen=True)
class Closures:
    closed: int
    sounds: int
    auc: float


def aligned(audio: np.ndarray, text: str) -> list[tuple[float, float, str]]:
    """(start_s, end_s, ARPAbet symbol) of English speech. Raises UserError: no pocketsphinx, or the text does not fit."""
    try:
        from pocketsphinx import Decoder  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("closures: need the package pocketsphinx, found none") from None
    words = "".join(c if c.isalpha() or c == "'" else " " for c in text.lower())
    raw = (np.clip(audio, -1, 1) * 32767).astype(np.int16).tobytes()
    decoder = Decoder(lm=None, loglevel="FATAL", samprate=SAMPLE_RATE)
    try:
        decoder.set_align_text(" ".join(words.split()))
        for phones in (False, True):
            if phones:
                decoder.set_alignment()
            decoder.start_utt()
            decoder.process_raw(raw, full_utt=True)
            decoder.end_utt()
        found = [p for word in decoder.get_alignment() for p in word]
    except (RuntimeError, TypeError) as error:
        raise UserError(f"closures: expected a text that the recording says, found {error}") from None
    return [(p.start * 0.01, (p.start + p.duration) * 0.01, p.name) for p in found]


def judge_closures(opening: np.ndarray, sounds: list[tuple[float, float, str]]) -> Closures:
    """Opening (T,) in any unit against aligned sounds."""
    rest, wide = np.quantile(opening, [0.03, 0.95])
    time = (np.arange(len(opening)) + 0.5) / FPS
    shut, other = [], []
    for start, end, name in sounds:
        if name in SILENT:
            continue
        if name in BILABIAL:
            inside = opening[(time >= start - 1 / FPS) & (time <= end + 1 / FPS)]
            shut += [inside.min()] if len(inside) else []
        else:
            inside = opening[(time >= start) & (time <= end)]
            other += [inside.mean()] if len(inside) else []
    a, b = np.asarray(shut)[:, None], np.asarray(other)[None]
    auc = float((a < b).mean() + 0.5 * (a == b).mean()) if len(shut) and len(other) else float("nan")
    return Closures(int((a < rest + CLOSED * (wide - rest)).sum()), len(shut), auc)


def seen_lips(path: Path) -> np.ndarray:
    """(T,) gap of the inner lips over the height of the face, of the largest face of a video; NaN where there is none."""
    finder, mesh, out = HolisticFaces(), None, []
    for image in iterate_video(path):
        mesh = finder.follow(image, mesh) if mesh is not None else None
        if mesh is None:
            mesh = next(iter(finder.find(image)), None)
        out.append(np.nan if mesh is None else FaceShape.of(mesh, image).lips)
    return np.asarray(out)


def at_lag(ours: np.ndarray, truth: np.ndarray, lag: int) -> float:
    """Correlation when ours are moved `lag` frames earlier, over what both have."""
    count = min(len(ours), len(truth))
    a, b = ours[:count][max(0, lag) : count + min(0, lag)], truth[:count][max(0, -lag) : count - max(0, lag)]
    known = np.isfinite(b)
    return correlation(a[known], b[known])
