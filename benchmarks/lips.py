"""Lips of a student against the teacher's own, on many sentences of unheard speakers: `python -m benchmarks.lips`.

The procedural teacher's face is known without a picture, so that every sentence of a split can be judged in the time it takes to
speak it, where `evaluate` has two a person. Choices are made on `val`. What it prints, over the sentences of each of the split's
voices, shared out over people: correlation with the true lip aperture, slope on it, slope where neither lip overlaps the other
(a picture does not show how firmly lips are pressed), p, b, m that close the lips, and open frames shown shut.

    python -m benchmarks.lips --model data/distill/student.safetensors --gain 1.2 --gain 1.4

Shapes: S samples at 16 kHz, T frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from avatar_core.clock import SAMPLES_PER_FRAME
from avatar_core.generator.sampler import generate
from avatar_core.metrics.mouth import closing_segments, closures, correlation, slope
from avatar_core.metrics.truth import true_aperture
from avatar_core.procedural.people import Identity, Person, neutral_face
from avatar_core.procedural.performance import perform, sample_style
from avatar_core.speak.maker import SHIPPED, TRAINED
from avatar_core.speak.student import Student, load_student
from avatar_core.speech.espeak_source import EspeakSpeech
from avatar_core.teacher.procedural import truth_vertex_ids
from avatar_core.template.mesh import load_template
from stages.artifacts import Artifacts
from stages.common import Stage
from stages.params import load_params


@dataclass(frozen=True)
class Sentence:
    """audio (S,); aperture (T,) metres, signed; segments: start and end in seconds of each p, b, m."""

    audio: np.ndarray
    aperture: np.ndarray
    segments: list[tuple[float, float]]


def sentences(split: str) -> Iterator[Sentence]:
    """Every script line of the split in each of its voices, acted in turn by the run's people that are not of the test."""
    people = [p for p in Artifacts.of(Stage("speech", None, load_params())).people() if p.split != "test"]
    source, template, ids, neutral = EspeakSpeech(), load_template(), truth_vertex_ids(), neutral_face()
    bodies = [Person.build(Identity(p.id, p.seed, p.attributes)) for p in people[-3:]]
    spoken = [
        (line, voice)
        for line in source.lines({split: 1})
        if line.split == split
        for voice in source.voices(split, None)
    ]
    for k, (line, voice) in enumerate(spoken):
        body, speech = bodies[k % len(bodies)], source.speak(line, voice)
        frames = -(-len(speech.audio) // SAMPLES_PER_FRAME)
        acted = perform(speech, frames, k, sample_style(people[-3:][k % len(bodies)].seed))
        positions = np.stack(
            [
                body.vertices(
                    np.maximum(neutral, acted.face_weights[t]), acted.rotvecs[t], acted.translation[t]
                )[ids]
                for t in range(frames)
            ]
        )
        aperture = true_aperture(ids, positions, template)
        assert aperture is not None
        yield Sentence(np.asarray(speech.audio, np.float32), aperture, closing_segments(speech.phonemes))


@torch.no_grad()
def judge(student: Student, spoken: list[Sentence], seed: int = 0) -> dict[str, float]:
    """Means over sentences; counts of closures."""
    codec = student.codec
    rest = float(codec.aperture(codec.neutral()[None])[0])
    rows, closed, segments = [], 0, 0
    for sentence in spoken:
        truth = sentence.aperture
        made = codec.aperture(generate(student.generator, sentence.audio, seed, student.sample))
        made = made.numpy()[: len(truth)]
        shut = closures(made, rest, sentence.segments, truth, 0.0)
        closed, segments = closed + shut.closed, segments + shut.segments
        rows.append(
            [
                correlation(made, truth),
                slope(made, truth),
                slope(np.maximum(made - rest, 0), np.maximum(truth, 0)),
                shut.false_share,
            ]
        )
    values = np.array(rows)
    names = ("correlation", "slope", "slope_of_open", "shown_shut")
    means = dict(zip(names, map(float, values.mean(0)), strict=True))
    return {**means, "worst": float(values[:, 0].min()), "closed": closed, "segments": segments}


def main() -> None:
    """Print a line for each student and gain."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lips", description=main.__doc__)
    parser.add_argument(
        "--model", type=Path, action="append", help="a student; default: the run's, or the shipped one"
    )
    parser.add_argument(
        "--gain", type=float, action="append", help="of the face in place of the student's own"
    )
    parser.add_argument("--split", choices=("train", "val"), default="val")
    given = parser.parse_args()
    torch.set_num_threads(1)
    spoken = list(sentences(given.split))
    print(f"{len(spoken)} sentences of split {given.split}")
    for file in given.model or [TRAINED if TRAINED.is_file() else SHIPPED]:
        student = load_student(file)
        for gain in given.gain or [float(student.generator.face_gain)]:
            student.generator.face_gain.fill_(gain)
            r = judge(student, spoken)
            print(
                f"{file}: gain {gain:.2f}: correlation {r['correlation']:.3f} (worst {r['worst']:.2f}), slope {r['slope']:.2f}, "
                f"of open lips {r['slope_of_open']:.2f}; closed {r['closed']} of {r['segments']}, "
                f"{r['shown_shut']:.1%} of open frames shown shut",
                flush=True,
            )


if __name__ == "__main__":
    main()
