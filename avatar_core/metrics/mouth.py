"""What lips do: aperture, its correlation with the truth, closures of p, b, m, and the mismatched control.

Aperture is how far the middle of the upper inner lip stands above that of the lower one, along the head's upward axis, in any
unit. It has a sign: lips that are pressed and rolled in overlap, and a plain distance would call that open. A
p/b/m counts as closed when the least aperture of its frames comes within a tolerance of the person's own rest: rest
gaps differ between people, so closures are judged relative to them.

Legend: T frames, P segments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CLOSED_TOLERANCE_M = 0.0012
CLOSING_SOUNDS = ("p", "b", "m")


def lip_aperture(upper: NDArray, lower: NDArray, up: NDArray) -> NDArray[np.float64]:
    """Lip points (T,3) and the head's unit upward axis (T,3) or (3,) -> signed aperture (T,).

    Locked by test_mouth_curves.
    """
    return ((np.asarray(upper, np.float64) - lower) * up).sum(-1)


def correlation(ours: NDArray, truth: NDArray) -> float:
    """Pearson correlation of two curves (T,); 0 when either is constant (a still mouth explains nothing).

    Locked by test_mouth_curves.
    """
    a = np.asarray(ours, np.float64) - np.mean(ours)
    b = np.asarray(truth, np.float64) - np.mean(truth)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"curves to correlate: expected equal (T,), found {a.shape} and {b.shape}")
    scale = np.sqrt((a @ a) * (b @ b))
    # A constant curve leaves rounding dust behind; compare with its own size.
    tiny = 1e-12 * (1 + np.abs(ours).max() * np.abs(truth).max()) * len(a)
    return float(a @ b / scale) if scale > tiny else 0.0


def slope(ours: NDArray, truth: NDArray) -> float:
    """Least-squares slope of ours on the truth: 1 is right, below 1 the mouth opens too little; 0 if truth is still.

    Locked by test_mouth_curves.
    """
    b = np.asarray(truth, np.float64) - np.mean(truth)
    power = float(b @ b)
    return float((np.asarray(ours, np.float64) - np.mean(ours)) @ b / power) if power > 1e-18 else 0.0


@dataclasses.dataclass(frozen=True)
class Closures:
    """`closed` of `segments` p/b/m were closed; `false_share`: share of truly open frames that ours shows shut."""

    closed: int
    segments: int
    false_share: float


def closing_segments(phonemes: Sequence) -> list[tuple[float, float]]:
    """(start_s, end_s) of the p, b, m among phonemes that have start_s, end_s, ipa.

    Locked by test_closing_segments_reads_ipa.
    """
    skip = "ˈˌ"
    return [(p.start_s, p.end_s) for p in phonemes if p.ipa.strip(skip)[:1] in CLOSING_SOUNDS]


def closures(
    aperture: NDArray,
    rest: float,
    segments: Sequence[tuple[float, float]],
    truth: NDArray | None = None,
    truth_rest: float = 0.0,
    tolerance: float = CLOSED_TOLERANCE_M,
    fps: float = 25.0,
) -> Closures:
    """Aperture (T,) and the person's rest aperture -> Closures. Segments (start_s, end_s) of p, b, m.

    With `truth` (T,): false_share is the share of frames where truth stands 3 tolerances above its rest but ours
    is within one of its own. Locked by test_closures_are_judged_against_the_own_rest.
    """
    aperture = np.asarray(aperture, np.float64)
    closed = total = 0
    for start, end in segments:
        first = int(np.floor(start * fps))
        last = max(first + 1, int(np.ceil(end * fps - 1e-9)))
        part = aperture[max(first, 0) : last]
        if len(part) == 0:
            continue
        total += 1
        closed += bool(part.min() <= rest + tolerance)
    false_share = float("nan")
    if truth is not None:
        open_frames = np.asarray(truth) > truth_rest + 3 * tolerance
        if open_frames.any():
            false_share = float((aperture[open_frames] <= rest + tolerance).mean())
    return Closures(closed, total, false_share)


def mismatched_correlation(ours: Sequence[NDArray], truths: Sequence[NDArray]) -> float:
    """Mean correlation of each curve with the other clips' truths, cut to the shorter: the control that must be low.

    Locked by test_mismatched_correlation_is_low_for_independent_clips.
    """
    values = []
    for i, curve in enumerate(ours):
        for j, truth in enumerate(truths):
            if i != j:
                count = min(len(curve), len(truth))
                values.append(correlation(curve[:count], truth[:count]))
    if not values:
        raise ValueError("mismatched correlation: expected 2 clips or more, found fewer")
    return float(np.mean(values))
