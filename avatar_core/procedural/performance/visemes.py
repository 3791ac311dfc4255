"""Mouth curves from phoneme times: co-articulation by dominance (Cohen and Massaro 1993), closures kept exact.

Each sound pulls the mouth towards its shape with a weight that rises before it and fades after it; the curve is the
weighted mean, evaluated at 100 Hz. Lips and jaw lead what is heard of them: while one sound lasts they are on their way to
the next, so all weights but those of lips that touch are `LEAD_S` early, and rounding begins earliest. Lip closures (p, b, m)
and f, v dominate by far. A picture lasts 40 ms, as long as a closure: averaging would leave the lips apart, so a picture that
touches a closure shows its most closed 10 ms.

T = pictures at 25 fps; n = 4 T instants at 100 Hz, instant k at (k + 0.5) * 10 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar_core.clock import FPS
from avatar_core.procedural.performance.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar_core.procedural.performance.curves import smooth_step
from avatar_core.procedural.performance.phones import VISEMES, segments
from avatar_core.speech.types import Phoneme

INSTANTS_PER_PICTURE = 4
LEAD_S = 0.04  # on human talkers lips are a picture ahead of a mouth whose shapes last just as long as their sounds
_STEP_S = 1.0 / (FPS * INSTANTS_PER_PICTURE)


@dataclass(frozen=True)
class Shape:
    """A viseme: ARKIT weights (a name ending in "_" stands for its Left and Right), its pull, how early and late (s)."""

    weights: dict[str, float]
    dominance: float = 1.0
    rise_s: float = 0.15
    fall_s: float = 0.12


SHAPES: dict[str, Shape] = {
    "sil": Shape(
        {"mouthPress_": 0.10}, 0.7
    ),  # lips just shut: without it a millimetre of teeth shows at rest
    "PP": Shape({"mouthPress_": 0.35, "mouthRollLower": 0.15, "mouthRollUpper": 0.15}, 30.0, 0.05, 0.03),
    "FF": Shape(
        {"mouthRollLower": 0.55, "jawOpen": 0.10, "mouthUpperUp_": 0.35, "mouthShrugLower": 0.15},
        30.0,
        0.05,
        0.03,
    ),
    "VB": Shape({"jawOpen": 0.08, "mouthPucker": 0.15, "mouthRollLower": 0.05}, 6.0, 0.04, 0.04),
    "TH": Shape({"jawOpen": 0.18, "tongueOut": 0.30, "mouthLowerDown_": 0.2, "mouthUpperUp_": 0.15}),
    "DD": Shape({"jawOpen": 0.15, "mouthLowerDown_": 0.2, "mouthUpperUp_": 0.15}, 0.8),
    "kk": Shape({"jawOpen": 0.18, "mouthLowerDown_": 0.15, "mouthUpperUp_": 0.1}, 0.5),
    "hh": Shape({"jawOpen": 0.22, "mouthLowerDown_": 0.1, "mouthUpperUp_": 0.1}, 0.15),
    "SS": Shape({"jawOpen": 0.06, "mouthLowerDown_": 0.4, "mouthUpperUp_": 0.25, "mouthStretch_": 0.2}, 1.2),
    "CH": Shape(
        {"jawOpen": 0.08, "mouthFunnel": 0.45, "mouthPucker": 0.15, "mouthLowerDown_": 0.2}, 1.3, 0.17
    ),
    "RR": Shape({"jawOpen": 0.12, "mouthPucker": 0.35, "mouthFunnel": 0.2}, 0.9),
    "aa": Shape({"jawOpen": 0.42, "mouthLowerDown_": 0.15, "mouthUpperUp_": 0.2}),
    "ah": Shape({"jawOpen": 0.30, "mouthLowerDown_": 0.15, "mouthUpperUp_": 0.15}),
    "ax": Shape({"jawOpen": 0.20, "mouthLowerDown_": 0.12, "mouthUpperUp_": 0.12}, 0.7),
    "E": Shape(
        {
            "jawOpen": 0.24,
            "mouthStretch_": 0.3,
            "mouthSmile_": 0.2,
            "mouthUpperUp_": 0.2,
            "mouthLowerDown_": 0.2,
        }
    ),
    "ih": Shape(
        {
            "jawOpen": 0.12,
            "mouthStretch_": 0.35,
            "mouthSmile_": 0.3,
            "mouthUpperUp_": 0.25,
            "mouthLowerDown_": 0.3,
        }
    ),
    "oh": Shape({"jawOpen": 0.18, "mouthFunnel": 0.45, "mouthPucker": 0.15}, 1.0, 0.19, 0.12),
    "ou": Shape({"jawOpen": 0.10, "mouthPucker": 0.75, "mouthFunnel": 0.25}, 1.0, 0.20, 0.12),
    "uy": Shape({"jawOpen": 0.13, "mouthPucker": 0.55, "mouthFunnel": 0.35}, 1.0, 0.19, 0.12),
}


@dataclass(frozen=True)
class Closure:
    """A p, b or m: its time in seconds and the pictures it touches, [first_frame, end_frame)."""

    start_s: float
    end_s: float
    first_frame: int
    end_frame: int


@dataclass(frozen=True)
class MouthCurves:
    """weights (T, 52) float64, visemes (T,) index into `phones.VISEMES` at each picture's middle, and the closures."""

    weights: np.ndarray
    visemes: np.ndarray
    closures: list[Closure]


def shape_vector(viseme: str) -> np.ndarray:
    """(52,) ARKIT weights of one viseme; a name ending in "_" sets the left and the right side."""
    vector = np.zeros(len(ARKIT_NAMES))
    for name, value in SHAPES[viseme].weights.items():
        for full in _sides(name):
            vector[ARKIT_INDEX[full]] = value
    return vector


def mouth_curves(
    phonemes: list[Phoneme], num_frames: int, articulation: float = 1.0, effort: np.ndarray | None = None
) -> MouthCurves:
    """Curves for `num_frames` pictures.

    articulation: 1 = as authored; scales how far the mouth opens and moves, never the closures; effort: the same at 100 Hz, see
    `effort`, None = 1.
    """
    instants = num_frames * INSTANTS_PER_PICTURE
    time = (np.arange(instants) + 0.5) * _STEP_S
    total = np.zeros((instants, len(ARKIT_NAMES)))
    pull = np.full(instants, 1e-3)
    closed = np.zeros(instants, bool)
    current = np.full(instants, VISEMES.index("sil"), np.int64)
    closures: list[Closure] = []
    vectors = {name: shape_vector(name) for name in SHAPES}
    for start, end, viseme, stressed in segments(phonemes):
        shape = SHAPES[viseme]
        hard = viseme in ("PP", "FF")
        early = 0.0 if hard or viseme == "sil" else LEAD_S
        weight = shape.dominance * np.minimum(
            smooth_step(start - early - shape.rise_s, start - early + 0.005, time),
            1.0 - smooth_step(end - early - 0.005, end - early + shape.fall_s, time),
        )
        size = 1.0 if hard else articulation * (1.15 if stressed else 0.9)
        if effort is not None and len(effort) and not hard:
            size *= effort[min(int(0.5 * (start + end) / _STEP_S), len(effort) - 1)]
        total += weight[:, None] * (size * vectors[viseme])
        pull += weight
        inside = (time >= start) & (time < end)
        current[inside] = VISEMES.index(viseme)
        if viseme == "PP" and start < num_frames / FPS:
            closed |= inside
            closed[min(int((start + end) / 2 / _STEP_S), instants - 1)] = (
                True  # even if shorter than an instant
            )
            closures.append(closure_of(start, end, num_frames))
    if not phonemes:
        total, pull = total + vectors["sil"], np.ones(instants)
    curves = total / pull[:, None]
    pictures = curves.reshape(num_frames, INSTANTS_PER_PICTURE, -1)
    weights = pictures.mean(1)
    _keep_closures(weights, pictures, closed.reshape(num_frames, INSTANTS_PER_PICTURE))
    return MouthCurves(weights, current[INSTANTS_PER_PICTURE // 2 :: INSTANTS_PER_PICTURE], closures)


def closure_of(start: float, end: float, num_frames: int) -> Closure:
    """The closure from start to end, seconds, and the pictures that it touches."""
    first, last = int(start * FPS), int(np.ceil(end * FPS - 1e-9))
    return Closure(start, end, first, min(max(last, first + 1), num_frames))


def _keep_closures(weights: np.ndarray, pictures: np.ndarray, closed: np.ndarray) -> None:
    """Where a picture touches a closure, show the instant at which the jaw is least open (changes `weights`)."""
    jaw = ARKIT_INDEX["jawOpen"]
    for frame in np.nonzero(closed.any(1))[0]:
        opening = np.where(closed[frame], pictures[frame, :, jaw], np.inf)
        weights[frame] = pictures[frame, int(np.argmin(opening))]


def _sides(name: str) -> tuple[str, ...]:
    return (name[:-1] + "Left", name[:-1] + "Right") if name.endswith("_") else (name,)
