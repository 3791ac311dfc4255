"""Videos of cartoon faces (a blue disk with a red mouth) before a still backdrop, and a finder that sees exactly these."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from avatar_core.ingest.faces import CHIN, EYE_LEFT, EYE_RIGHT, FOREHEAD, LOWER_LIP, NOSE, UPPER_LIP
from avatar_core.io.video import write_mp4

WIDTH, HEIGHT = 400, 260
BLUE, RED = (20, 40, 230), (230, 30, 20)


@dataclass(frozen=True)
class Face:
    """x, y px of the middle, height px; each a number or one for each frame (T,); opening (T,), shares of the height."""

    x: np.ndarray | float
    y: np.ndarray | float
    height: np.ndarray | float
    opening: np.ndarray


def syllables(seconds: float, seed: int = 0) -> np.ndarray:
    """Openings (T,) of a mouth that talks: four syllables a second, of different loudness, with pauses."""
    rng = np.random.default_rng(seed)
    frames = int(seconds * 25)
    at = np.arange(frames)
    out = np.zeros(frames)
    start = 2.0
    while start < frames:
        length = rng.uniform(4, 8)
        out = np.maximum(
            out, rng.uniform(0.3, 1) * np.exp(-(((at - start - length / 2) / (length / 3)) ** 2))
        )
        start += length + (rng.uniform(6, 14) if rng.random() < 0.2 else 0)
    return 0.09 * out


def voice(opening: np.ndarray, seed: int = 1) -> np.ndarray:
    """A sound (640 T,) that is as loud as the mouth is open."""
    loud = np.interp(np.arange(640 * len(opening)) / 640 - 0.5, np.arange(len(opening)), opening)
    noise = np.random.default_rng(seed).normal(0, 1, len(loud))
    return (3 * np.minimum(loud, 0.1) * noise + 2e-4 * noise).astype(np.float32).clip(-1, 1)


@functools.lru_cache(maxsize=2)
def backdrop(wide: int = WIDTH) -> np.ndarray:
    """(HEIGHT,wide,3) uint8 grey blocks: corners to follow, nothing blue or red."""
    blocks = np.random.default_rng(3).integers(60, 200, (HEIGHT // 20, wide // 20), dtype=np.uint8)
    return np.repeat(cv2.resize(blocks, (wide, HEIGHT), interpolation=cv2.INTER_NEAREST)[..., None], 3, 2)


@functools.lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """(64,HEIGHT,WIDTH,1) int16: what a camera's noise leaves of two equal pictures."""
    rng = np.random.default_rng(4)
    coarse = rng.integers(-3, 4, (64, HEIGHT // 10, WIDTH // 10), dtype=np.int16)
    return np.repeat(np.repeat(coarse, 10, 1), 10, 2)[..., None]


def film(frames: int, *faces: Face, pan: float = 0.0) -> np.ndarray:
    """(T,HEIGHT,WIDTH,3) uint8. pan: px that the backdrop moves by frame."""
    out = []
    for t in range(frames):
        picture = np.roll(backdrop(), round(pan * t), 1).copy()
        for face in faces:
            x, y, h = (float(np.broadcast_to(v, frames)[t]) for v in (face.x, face.y, face.height))
            cv2.ellipse(picture, (round(x), round(y)), (round(0.4 * h), round(0.5 * h)), 0, 0, 360, BLUE, -1)
            top = y + 0.2 * h
            mouth = (
                (round(x - 0.15 * h), round(top)),
                (round(x + 0.15 * h), round(top + face.opening[t] * h) + 2),
            )
            cv2.rectangle(picture, *mouth, RED, -1)
        out.append(picture)
    grain = _grain()[np.arange(frames) % 64]
    return (np.stack(out) + grain).clip(0, 255).astype(np.uint8)


def write(path, frames: np.ndarray, sound: np.ndarray | None, fps: int = 25) -> None:
    write_mp4(path, frames, audio=sound, fps=fps, crf=8, preset="ultrafast")


class Finder:
    """Finds blue disks; the mouth's opening is its red pixels."""

    def __init__(self) -> None:
        self.looks = 0

    def find(self, image: np.ndarray) -> list[np.ndarray]:
        self.looks += 1
        r, g, b = cv2.split(image)
        blue, red = cv2.subtract(b, cv2.max(r, g)) > 60, cv2.subtract(r, cv2.max(g, b)) > 60
        count, labels, stats, _ = cv2.connectedComponentsWithStats((blue | red).astype(np.uint8))
        found = []
        for k in range(1, count):
            x, y, w, h, area = stats[k]
            if area < 150:
                continue
            own = slice(y, y + h), slice(x, x + w)
            mouth = (red[own] & (labels[own] == k)).sum() / max(0.3 * h, 1)
            found.append(_mesh(x + w / 2, y + h / 2, float(h), float(w), max(mouth - 2, 0)))
        return sorted(found, key=lambda m: -float(np.ptp(m[:, 1])))

    def follow(self, image: np.ndarray, mesh: np.ndarray) -> np.ndarray | None:
        near = [m for m in self.find(image) if np.hypot(*(m.mean(0) - mesh.mean(0))[:2]) < np.ptp(mesh[:, 1])]
        return near[0] if near else None

    def person(self, image: np.ndarray) -> np.ndarray:
        out = np.zeros(image.shape[:2], np.float32)
        for mesh in self.find(image):
            x0, y0, x1 = int(mesh[:, 0].min()), int(mesh[:, 1].min()), int(mesh[:, 0].max()) + 1
            out[max(y0, 0) :, max(x0, 0) : x1] = 1
        return out

    def joints(self, image: np.ndarray, middle: np.ndarray) -> np.ndarray:
        return np.zeros(33)

    def describe(self, image: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        return np.array([np.ptp(mesh[:, 1]) / 100.0])  # these people differ in size


def _mesh(x: float, y: float, h: float, w: float, opening: float) -> np.ndarray:
    mesh = np.zeros((478, 3))
    angle = np.linspace(0, 2 * np.pi, 478)
    mesh[:, 0], mesh[:, 1] = x + w / 2 * np.cos(angle), y + h / 2 * np.sin(angle)
    mesh[FOREHEAD], mesh[CHIN], mesh[NOSE] = (
        (x, y - h / 2, 0),
        (x, y + h / 2, 0),
        (x, y - 0.02 * h - 0.3 * opening, 0),
    )
    mesh[UPPER_LIP], mesh[LOWER_LIP] = (x, y + 0.2 * h, 0), (x, y + 0.2 * h + opening, 0)
    for side, (outer, inner, up, down) in ((-1, EYE_RIGHT), (1, EYE_LEFT)):
        mesh[outer], mesh[inner] = (
            (x + side * 0.25 * h, y - 0.15 * h, 0),
            (x + side * 0.1 * h, y - 0.15 * h, 0),
        )
        mesh[up], mesh[down] = (x + side * 0.17 * h, y - 0.17 * h, 0), (x + side * 0.17 * h, y - 0.13 * h, 0)
    return mesh
