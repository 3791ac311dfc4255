"""Whose face it is: tracks of all files grouped into people, and the frame of each that serves as the portrait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from avatar_core.ingest.faces import COLUMNS
from avatar_core.ingest.watch import Track

# A portrait is neutral: what it costs to be off by so much.
_YAW, _TILT, _LIPS, _BLINK, _BLUR = 8.0, 8.0, 0.007, 0.1, 1.5

Describe = Callable[[np.ndarray, np.ndarray], np.ndarray]  # picture (H,W,3), mesh (478,3) -> descriptor (D,)


@dataclass(frozen=True)
class Appearance:
    """A stretch of a file that shows one face: its best portrait frame, how far from neutral that is, and its descriptor (D,)."""

    file: int
    track: int
    frame: int
    cost: float
    descriptor: np.ndarray


def portrait_frame(track: Track, start: int, stop: int, voiced: np.ndarray) -> tuple[int, float]:
    """The frame of [start, stop) most like a portrait (frontal, mouth shut, eyes open, sharp, nobody speaking), and its cost."""
    rows = track.rows[start - track.start : stop - track.start]
    yaw, pitch, lips, eyes = (rows[:, COLUMNS[n]] for n in ("yaw", "pitch", "lips", "eyes"))
    tilt = pitch - np.clip(np.median(track.column("pitch")), -15, 15)
    open_eyes = np.quantile(track.column("eyes"), 0.8)
    speaks = np.zeros(stop - start)
    heard = voiced[start:stop]
    speaks[: len(heard)] = heard
    moves = (
        np.abs(np.gradient(rows[:, :2], axis=0)).sum(1) / rows[:, COLUMNS["height"]] if len(rows) > 1 else 0.0
    )
    cost = (
        (yaw / _YAW) ** 2
        + (tilt / _TILT) ** 2
        + (lips / _LIPS) ** 2
        + (np.maximum(open_eyes - eyes, 0) / _BLINK) ** 2
        + 0.3 * speaks
        + 20 * moves
        + ((np.quantile(track.column("sharp"), 0.8) - rows[:, COLUMNS["sharp"]]).clip(0) / _BLUR) ** 2
    )
    best = int(cost.argmin())
    return start + best, float(cost[best])


def group(appearances: list[Appearance], same: float) -> list[int]:
    """A person's number for each appearance, in the order of first sight; one whose descriptor is nearer than `same` to the mean
    of a person is that person's."""
    people: list[list[np.ndarray]] = []
    out = []
    for seen in appearances:
        gaps = [float(np.linalg.norm(np.mean(p, 0) - seen.descriptor)) for p in people]
        near = int(np.argmin(gaps)) if gaps else -1
        if gaps and gaps[near] < same:
            people[near].append(seen.descriptor)
            out.append(near)
        else:
            people.append([seen.descriptor])
            out.append(len(people) - 1)
    return out
