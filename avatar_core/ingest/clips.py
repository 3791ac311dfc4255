"""The second look at a video: the pictures of its clips, of its people's portraits, and one of every refused shot.

A clip is seen close, and where arms show, at a distance too: the same performance in two framings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from avatar_core.ingest.config import IngestConfig
from avatar_core.ingest.faces import COLUMNS, FaceFinder
from avatar_core.ingest.people import Appearance, portrait_frame
from avatar_core.ingest.pieces import HEAD_ABOVE, Piece
from avatar_core.ingest.watch import BOX, Watched

ARMS, ANKLES = (13, 14, 15, 16), (27, 28)  # elbows and wrists; MediaPipe's order
SEEN = 0.5
WAIST_UP, FULL_BODY = (
    6.4,
    11.0,
)  # heights of a face that a picture of the person to the thighs, to the feet, is high
DISTANT_FACE_PX = 20  # at the size of the clip
PORTRAIT_MARGIN = 0.08


@dataclass(frozen=True)
class Shown:
    """What a file shows: pictures (F,H,W,3) uint8 by piece and framing; a portrait picture by piece; a picture by refused piece."""

    framing: str
    piece: int
    frames: np.ndarray


@dataclass(frozen=True)
class Portrait:
    picture: np.ndarray
    seen: Appearance


def cut(
    frames: Iterable[np.ndarray],
    watched: Watched,
    pieces: list[Piece],
    voiced: np.ndarray,
    file: int,
    finder: FaceFinder,
    config: IngestConfig,
) -> Iterator[Shown | Portrait | tuple[int, np.ndarray]]:
    """Go through the frames again and yield, as they come: clips, a portrait for each taken stretch of a track, and
    (number of a refused piece, its middle picture)."""
    portraits = _portraits(watched, pieces, voiced, file)
    middles = {(p.start + p.stop) // 2: k for k, p in enumerate(pieces) if p.reason}
    gathered: dict[tuple[int, str], list[np.ndarray]] = {}
    windows: dict[int, dict[str, tuple[int, int, int]]] = {}
    by_frame = sorted((p.start, p.stop, k) for k, p in enumerate(pieces) if not p.reason)
    for t, frame in enumerate(frames):
        if t in middles:
            yield middles[t], frame
        for seen in portraits.get(t, ()):
            yield _portrait(frame, watched, seen, finder)
        for start, stop, k in by_frame:
            if not start <= t < stop:
                continue
            if t == start:
                windows[k] = {"face": pieces[k].window} | _distant(frame, watched, pieces[k], finder, config)
            for framing, (left, top, side) in windows[k].items():
                part = frame[top : top + side, left : left + side]
                gathered.setdefault((k, framing), []).append(_scaled(part, config.size))
            if t == stop - 1:
                for framing in windows.pop(k):
                    yield Shown(framing, k, np.stack(gathered.pop((k, framing))))
        if t >= max([p.stop for p in pieces if not p.reason] + list(middles) + list(portraits), default=0):
            return


def _scaled(part: np.ndarray, size: int) -> np.ndarray:
    side = min(size, part.shape[0]) // 2 * 2
    if part.shape[0] == side:
        return part
    return cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)


def _distant(
    frame: np.ndarray, watched: Watched, piece: Piece, finder: FaceFinder, config: IngestConfig
) -> dict[str, tuple[int, int, int]]:
    """The window of a second framing, where the picture shows elbows and wrists, or feet."""
    row = watched.tracks[piece.track].rows[piece.start - watched.tracks[piece.track].start]
    height = row[COLUMNS["height"]]
    room = min(watched.width, watched.height)
    if room < 1.5 * piece.window[2]:
        return {}
    seen = finder.joints(frame, row[:2])
    framing, wanted = ("full_body", FULL_BODY) if seen[list(ANKLES)].min() > SEEN else ("waist_up", WAIST_UP)
    side = int(min(room, wanted * height)) // 2 * 2
    if seen[list(ARMS)].min() < SEEN or height * min(config.size, side) / side < DISTANT_FACE_PX:
        return {}
    left = int(np.clip(round(row[0] - side / 2), 0, watched.width - side))
    above = row[BOX[1]] - HEAD_ABOVE * height
    return {framing: (left, int(np.clip(round(above), 0, watched.height - side)), side)}


def _portraits(
    watched: Watched, pieces: list[Piece], voiced: np.ndarray, file: int
) -> dict[int, list[Appearance]]:
    """By frame: the best portrait of every track that gives a clip, looked for among its clips' frames."""
    best: dict[int, Appearance] = {}
    for piece in pieces:
        if piece.reason:
            continue
        frame, cost = portrait_frame(watched.tracks[piece.track], piece.start, piece.stop, voiced)
        if piece.track not in best or cost < best[piece.track].cost:
            best[piece.track] = Appearance(file, piece.track, frame, cost, np.zeros(0))
    out: dict[int, list[Appearance]] = {}
    for seen in best.values():
        out.setdefault(seen.frame, []).append(seen)
    return out


def _portrait(frame: np.ndarray, watched: Watched, seen: Appearance, finder: FaceFinder) -> Portrait:
    """The picture cut to the person, all of it that shows, and the face's descriptor."""
    track = watched.tracks[seen.track]
    row = track.rows[seen.frame - track.start]
    mesh = min(finder.find(frame), key=lambda m: np.hypot(*(m[:468, :2].mean(0) - row[:2])), default=None)
    descriptor = np.zeros(128) if mesh is None else finder.describe(frame, mesh)
    left, right = _person_columns(finder.person(frame), row)
    others = [t for k, t in enumerate(watched.tracks) if k != seen.track and t.start <= seen.frame < t.stop]
    for other in others:
        box = other.rows[seen.frame - other.start][BOX]
        if box[0] > row[BOX[2]]:
            right = min(right, (box[0] + row[BOX[2]]) / 2)
        elif box[2] < row[BOX[0]]:
            left = max(left, (box[2] + row[BOX[0]]) / 2)
    a, b = int(max(0, left)), int(min(frame.shape[1], np.ceil(right)))
    return Portrait(np.ascontiguousarray(frame[:, a:b]), replace(seen, descriptor=descriptor))


def _person_columns(mask: np.ndarray, row: np.ndarray) -> tuple[float, float]:
    """Columns of the connected part of the mask that holds the face, a margin on both sides, at least three heights wide."""
    solid = (mask > 0.5).astype(np.uint8)
    _, labels = cv2.connectedComponents(solid)
    y, x = int(np.clip(row[1], 0, mask.shape[0] - 1)), int(np.clip(row[0], 0, mask.shape[1] - 1))
    height = row[COLUMNS["height"]]
    columns = np.flatnonzero((labels == labels[y, x]).any(0)) if solid[y, x] else np.array([x])
    margin = PORTRAIT_MARGIN * mask.shape[1]
    return (
        float(min(columns[0] - margin, row[0] - 1.5 * height)),
        float(max(columns[-1] + margin, row[0] + 1.5 * height)),
    )
