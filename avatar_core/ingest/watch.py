"""One look at a whole video, frame by frame, keeping numbers only: cuts, faces, what the camera does.

Memory does not grow with the pictures' size. Frames come at 25 fps. Everything is deterministic.
Sources: cuts by histogram and pixel difference as in PySceneDetect's content detector; camera motion by Lucas-Kanade tracks outside
the people and a similarity by RANSAC.

Legend: T frames, F frames of a track, L looks (one every LOOK frames and after each cut).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from avatar_core.ingest.faces import COLUMNS, FaceFinder, FaceShape, overlap
from avatar_core.progress import Progress, silent

LOOK = 12  # frames between searches for new faces
FACES = 3  # followed at once, the largest
THUMB = (64, 36)
CUT_CHANGE = 0.09  # mean change of the thumbnail's pixels, 0..1
CUT_HISTOGRAM = 0.35  # share of the pixels that change their bin
CUT_ABOVE = 3.0  # times the change of the frames around
JUMP = 0.35  # heights that a face jumps in one frame where a cut leaves the backdrop as it is
GREY_SIDE = 360  # px, longer side of the pictures on which the backdrop is followed
BACKDROP_POINTS = 120
LEAST_POINTS = 14
BOX = [COLUMNS[name] for name in ("left", "top", "right", "bottom")]


@dataclass(frozen=True)
class Track:
    """A face from frame `start` on: rows (F,14) of `FaceShape`."""

    start: int
    rows: np.ndarray

    @property
    def stop(self) -> int:
        return self.start + len(self.rows)

    def column(self, name: str) -> np.ndarray:
        return self.rows[:, COLUMNS[name]]


@dataclass(frozen=True)
class Watched:
    """width, height px; change (T,): largest difference of a place to the frame before, 0..1; cuts: first frames of shots, 0
    among them; tracks; camera (L,8): frames a and b, the similarity (6,) that carries the backdrop from a to b in shares of
    the picture's height, NaN where the backdrop has nothing to follow."""

    width: int
    height: int
    change: np.ndarray
    cuts: list[int]
    tracks: list[Track]
    camera: np.ndarray

    def __len__(self) -> int:
        return len(self.change)

    def shots(self) -> list[tuple[int, int]]:
        """First frame and the one after the last."""
        return list(zip(self.cuts, [*self.cuts[1:], len(self)], strict=True))

    def arrays(self) -> dict[str, np.ndarray]:
        """For a store; `from_arrays` reads them."""
        return {
            "size": np.array([self.width, self.height], np.int32),
            "change": self.change.astype(np.float32),
            "cuts": np.array(self.cuts, np.int32),
            "starts": np.array([t.start for t in self.tracks], np.int32),
            "lengths": np.array([len(t.rows) for t in self.tracks], np.int32),
            "rows": np.concatenate([t.rows for t in self.tracks] or [np.zeros((0, len(COLUMNS)))]),
            "camera": self.camera,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Watched:
        ends = np.cumsum(arrays["lengths"])
        parts = np.split(arrays["rows"], ends[:-1]) if len(ends) else []
        tracks = [Track(int(s), rows) for s, rows in zip(arrays["starts"], parts, strict=True)]
        width, height = arrays["size"].tolist()
        return cls(width, height, arrays["change"], arrays["cuts"].tolist(), tracks, arrays["camera"])


def watch(frames: Iterable[np.ndarray], finder: FaceFinder, progress: Progress = silent) -> Watched:
    """Look at frames (H,W,3) uint8, all of one size, once. Raises ValueError when there are none."""
    cuts, changes, novelty, tracks, camera = [0], [], [], [], []
    live: list[_Live] = []
    follower = _Backdrop()
    before, histogram, width, height, count = None, None, 0, 0, 0
    for count, frame in enumerate(frames, start=1):
        t = count - 1
        height, width = frame.shape[:2]
        thumb = cv2.resize(frame, THUMB, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        bins = _histogram(thumb)
        change = 0.0 if before is None else float(np.abs(thumb - before).mean())
        novel = 0.0 if before is None else float(np.abs(thumb - before).max())
        moved = 0.0 if histogram is None else float(np.abs(bins - histogram).sum() / 2)
        cut = t > 0 and _is_cut(change, moved, changes[max(cuts[-1], t - 12) :])
        changes.append(change)
        novelty.append(novel)
        before, histogram = thumb, bins
        if not cut:
            cut = _follow(live, frame, finder)
        if cut:
            cuts.append(t)
        look = cut or (t - cuts[-1]) % LOOK == 0
        if look:
            camera += follower.close(t) if not cut else []
            live = [] if cut else live
            _search(live, tracks, frame, t, finder)
            follower.open(frame, t, finder)
        else:
            follower.step(frame)
        progress(count, 0, "watch")
    if not count:
        raise ValueError("watch: expected frames, found none")
    done = [Track(face.start, np.stack(face.rows)) for face in tracks]
    return Watched(
        width,
        height,
        np.array(novelty),
        cuts,
        done,
        np.array(camera, np.float64).reshape(-1, 8),
    )


@dataclass
class _Live:
    start: int
    mesh: np.ndarray
    rows: list[np.ndarray]


def _is_cut(change: float, moved: float, around: list[float]) -> bool:
    """A frame that differs much from the one before, and more than its neighbours did: a flash or a gesture does not."""
    usual = float(np.median(around)) if len(around) > 2 else 0.0
    if change < CUT_ABOVE * usual:
        return False
    return change > CUT_CHANGE or (moved > CUT_HISTOGRAM and change > CUT_CHANGE / 2)


def _histogram(thumb: np.ndarray) -> np.ndarray:
    index = (thumb * 7.999).astype(np.int32)
    flat = (index[..., 0] * 64 + index[..., 1] * 8 + index[..., 2]).ravel()
    return np.bincount(flat, minlength=512) / flat.size


def _follow(live: list[_Live], frame: np.ndarray, finder: FaceFinder) -> bool:
    """Move every face on by a frame; those that are gone leave. True when the largest jumps: a cut within one backdrop."""
    jumped = False
    for k, face in enumerate(list(live)):
        mesh = finder.follow(frame, face.mesh)
        if mesh is None:
            live.remove(face)
            continue
        shape = FaceShape.of(mesh, frame).row()
        last = face.rows[-1]
        leap = np.hypot(shape[0] - last[0], shape[1] - last[1]) / max(last[2], 1)
        if leap > JUMP:
            jumped |= k == 0
            live.remove(face)
            continue
        face.mesh = mesh
        face.rows.append(shape)
    return jumped


def _search(live: list[_Live], tracks: list[_Live], frame: np.ndarray, t: int, finder: FaceFinder) -> None:
    """Start a track for each face that none follows; drop a track that runs into a larger one."""
    for k, face in reversed(list(enumerate(live))):
        if any(overlap(face.rows[-1][BOX], other.rows[-1][BOX]) > 0.5 for other in live[:k]):
            live.remove(face)
    for mesh in finder.find(frame):
        row = FaceShape.of(mesh, frame).row()
        if len(live) >= FACES or any(overlap(row[BOX], face.rows[-1][BOX]) > 0.2 for face in live):
            continue
        face = _Live(t, mesh, [row])
        live.append(face)
        tracks.append(face)
    live.sort(key=lambda face: -face.rows[-1][COLUMNS["height"]])


class _Backdrop:
    """Points outside the people, followed from one look to the next."""

    def __init__(self) -> None:
        self.grey: np.ndarray | None = None
        self.seeds = np.zeros((0, 1, 2), np.float32)
        self.points = self.seeds
        self.at = 0

    def open(self, frame: np.ndarray, t: int, finder: FaceFinder) -> None:
        self.grey, self.at = _grey(frame), t
        people = cv2.resize(finder.person(frame), self.grey.shape[::-1], interpolation=cv2.INTER_AREA)
        side = max(3, self.grey.shape[0] // 16) | 1
        free = cv2.dilate((people > 0.3).astype(np.uint8), np.ones((side, side), np.uint8)) == 0
        found = cv2.goodFeaturesToTrack(self.grey, BACKDROP_POINTS, 0.01, 6, mask=free.astype(np.uint8) * 255)
        self.seeds = self.points = np.zeros((0, 1, 2), np.float32) if found is None else found

    def step(self, frame: np.ndarray) -> None:
        """Carry the points on; lost ones leave."""
        grey = _grey(frame)
        if self.grey is not None and len(self.points) and grey.shape == self.grey.shape:
            moved, good, _ = cv2.calcOpticalFlowPyrLK(
                self.grey, grey, self.points, np.zeros_like(self.points), winSize=(15, 15), maxLevel=3
            )
            keep = good[:, 0] > 0
            self.points, self.seeds = moved[keep], self.seeds[keep]
        self.grey = grey

    def close(self, t: int) -> list[np.ndarray]:
        """The similarity since `open`, one row of `Watched.camera`."""
        if self.grey is None or t == self.at:
            return []
        row = np.full(8, np.nan)
        row[:2] = self.at, t
        if len(self.points) >= LEAST_POINTS:
            scale = self.grey.shape[0]
            cv2.setRNGSeed(0)
            matrix, inside = cv2.estimateAffinePartial2D(
                self.seeds[:, 0] / scale, self.points[:, 0] / scale, ransacReprojThreshold=1.5 / scale
            )
            if matrix is not None and int(inside.sum()) >= LEAST_POINTS / 2:
                row[2:] = matrix.ravel()
        return [row]


def _grey(frame: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = GREY_SIDE / max(grey.shape)
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
