"""Lips on human voices: `python -m benchmarks.real_voices [--model STUDENT] [--voices DIR] [--clips DIR]`.

For every recording: how far the mouth opens (mean and 95th percentile, mm over the avatar's rest), and the same 40 dB quieter.
Beside NAME.wav a text NAME.txt of what is said gives the closures of p, b, m by forced alignment (pocketsphinx, where it is
installed): the share that comes within CLOSED of the clip's own range of its rest, and the AUC of openings at p, b, m against
those at other sounds.

For every talking video: correlation of the lips driven by its sound with the lips seen (inner gap by the height of the face)
when ours are moved earlier by -3..3 frames, that of the loudness alone, and that of the other clips' sounds.

And without any file: digital silence, faint and loud noise, music that is made here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from avatar_core.audio.backgrounds import coloured_noise, music
from avatar_core.audio.features import log_mel
from avatar_core.clock import FPS, MEL_PER_FRAME, SAMPLE_RATE
from avatar_core.errors import UserError
from avatar_core.generator.sampler import generate
from avatar_core.ingest.faces import FaceShape
from avatar_core.io.audio import read_audio
from avatar_core.io.video import iterate_video
from avatar_core.metrics.mouth import correlation
from avatar_core.perception.holistic.video import HolisticFaces
from avatar_core.speak.student import load_student

LAGS = range(-3, 4)
CLOSED = 0.12  # of the way from the clip's rest (3rd percentile) to its 95th percentile
BILABIAL = ("P", "B", "M")
SILENT = ("SIL", "+SPN+", "+NSN+")
Opening = Callable[[np.ndarray], np.ndarray]  # sound (S,) -> lip opening (T,) mm


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


def judge_voices(opening: Opening, folder: Path) -> None:
    closed = sounds = 0
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() not in (".txt", ".md")):
        try:
            audio = read_audio(path)
        except UserError as error:
            print(f"{path.name}: {error}")
            continue
        ours, quiet = opening(audio), opening(audio * np.float32(0.01))
        line = f"{path.name}: mean {ours.mean():.2f} mm, 95% {np.quantile(ours, 0.95):.2f}; 40 dB down {quiet.mean():.2f}"
        if path.with_suffix(".txt").is_file():
            try:
                found = judge_closures(ours, aligned(audio, path.with_suffix(".txt").read_text()))
                closed, sounds = closed + found.closed, sounds + found.sounds
                line += f"; p/b/m closed {found.closed} of {found.sounds}, AUC {found.auc:.3f}"
            except UserError as error:
                line += f"; {error}"
        print(line)
    if sounds:
        print(f"p/b/m closed: {closed} of {sounds}")


def judge_clips(opening: Opening, folder: Path) -> None:
    clips = {}
    for path in sorted(folder.iterdir()):
        try:
            audio = read_audio(path)
            lips = seen_lips(path)
        except UserError as error:
            print(f"{path.name}: {error}")
            continue
        if np.isfinite(lips).mean() < 0.5:
            print(f"{path.name}: no face in most frames")
            continue
        loud = log_mel(torch.from_numpy(audio)).mean(-1).numpy()
        loud = loud[: len(loud) // MEL_PER_FRAME * MEL_PER_FRAME].reshape(-1, MEL_PER_FRAME).mean(1)
        clips[path.name] = (opening(audio), lips, loud)
    rows = []
    for name, (ours, lips, loud) in clips.items():
        row = [at_lag(ours, lips, k) for k in LAGS]
        alone = [at_lag(loud, lips, k) for k in LAGS]
        others = [at_lag(o, lips, 0) for n, (o, _, _) in clips.items() if n != name]
        rows.append((row, alone, float(np.mean(others)) if others else np.nan))
        print(
            f"{name}: "
            + " ".join(f"{r:.2f}" for r in row)
            + f"; loudness {alone[3]:.2f}; others {rows[-1][2]:.2f}"
        )
    if rows:
        curve = np.mean([r[0] for r in rows], 0)
        best = np.mean([max(r[0][1:6]) for r in rows])
        alone = [np.mean([r[1][3] for r in rows]), np.mean([max(r[1][1:6]) for r in rows])]
        print(f"mean of {len(rows)}: at no lag {curve[3]:.2f}, best of +-2 {best:.2f}")
        print(f"moved earlier by {list(LAGS)}: {curve.round(2)}")
        print(
            f"loudness: {alone[0]:.2f}, {alone[1]:.2f}; another's voice {np.mean([r[2] for r in rows]):.2f}"
        )


def judge_without_voices(opening: Opening) -> None:
    rng, samples = np.random.default_rng(0), 8 * SAMPLE_RATE
    sounds = {"digital silence": np.zeros(samples)}
    sounds |= {
        f"noise at {level} dB": coloured_noise(rng, samples) * 10 ** (level / 20) for level in (-70, -50, -30)
    }
    sounds |= {f"music {k}": music(rng, samples) * 0.1 for k in range(4)}
    for name, sound in sounds.items():
        ours = opening(sound.astype(np.float32))
        print(f"{name}: mean {ours.mean():.2f} mm, 95% {np.quantile(ours, 0.95):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Lips on human voices.")
    parser.add_argument("--model", default="data/distill/student.safetensors")
    parser.add_argument("--voices", type=Path)
    parser.add_argument("--clips", type=Path)
    given = parser.parse_args()
    student = load_student(given.model)

    def opening(audio: np.ndarray) -> np.ndarray:
        x = generate(student.generator, audio, 0, student.sample)
        return 1000 * student.codec.aperture(x).detach().numpy()

    if given.voices:
        judge_voices(opening, given.voices)
    if given.clips:
        judge_clips(opening, given.clips)
    judge_without_voices(opening)


if __name__ == "__main__":
    main()
