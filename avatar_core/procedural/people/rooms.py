"""Rooms behind people: a lit wall, things on and before it, out of focus; and the grain of a film.

Drawn, not photographed: no backdrop comes from anywhere. Colours are sRGB in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np

PLAIN = 0.35  # share of clips that are filmed before the person's own plain backdrop
GRAIN = (0.3, 1.6)  # of 255, the standard deviation of a clip's noise


def sample_room(rng: np.random.Generator, size: int) -> np.ndarray | None:
    """A room (size, size, 3) float32, or None: the plain backdrop."""
    if rng.random() < PLAIN:
        return None
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    wall = _colour(rng, (0.25, 0.9), 0.12)
    slope = rng.uniform(-0.25, 0.25, 2)
    image = wall * (1 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5))[..., None]
    if rng.random() < 0.5:  # the floor, or a dado
        image[y > rng.uniform(0.6, 0.95)] = _colour(rng, (0.15, 0.6), 0.15)
    for _ in range(rng.integers(1, 7)):
        _add_thing(image, rng, size)
    image = cv2.GaussianBlur(image, (0, 0), float(np.exp(rng.uniform(np.log(0.004), np.log(0.03)))) * size)
    return np.clip(image, 0.02, 0.98).astype(np.float32)


def sample_grain(rng: np.random.Generator) -> float:
    """The noise of a clip's camera, of 255."""
    return float(rng.uniform(*GRAIN))


def with_grain(frames: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """frames (T, H, W, 3) uint8 with noise of that standard deviation, of 255, each frame its own."""
    noise = rng.standard_normal(frames.shape, np.float32) * np.float32(deviation)
    return np.clip(np.round(frames + noise), 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator, light: tuple[float, float], tint: float) -> np.ndarray:
    """(3,) a lightness in that range, off grey by up to `tint` of it."""
    return (rng.uniform(*light) * (1 + rng.uniform(-tint, tint, 3))).astype(np.float32)


def _add_thing(image: np.ndarray, rng: np.random.Generator, size: int) -> None:
    """A picture, a window, a shelf of books, a lamp or a plant, drawn into image."""
    width, height = rng.uniform(0.08, 0.4), rng.uniform(0.1, 0.7)
    left, top = rng.uniform(-0.1, 1.0), rng.uniform(-0.1, 0.8)
    x0, y0 = int(left * size), int(top * size)
    x1, y1 = int((left + width) * size), int((top + height) * size)
    kind = rng.integers(4)
    if kind == 0:  # a frame with something in it
        _fill(image, x0, y0, x1, y1, _colour(rng, (0.05, 0.5), 0.2))
        rim = max(2, size // 64)
        _fill(image, x0 + rim, y0 + rim, x1 - rim, y1 - rim, _colour(rng, (0.2, 0.95), 0.35))
    elif kind == 1:  # a bright window with its bars
        _fill(image, x0, y0, x1, y1, _colour(rng, (0.8, 1.1), 0.06))
        _fill(
            image, (x0 + x1) // 2, y0, (x0 + x1) // 2 + max(2, size // 48), y1, _colour(rng, (0.3, 0.7), 0.1)
        )
    elif kind == 2:  # books
        for at in range(x0, x1, max(2, size // 40)):
            _fill(
                image,
                at,
                y0 + int(rng.uniform(0, 0.05) * size),
                at + size // 40,
                y1,
                _colour(rng, (0.08, 0.7), 0.6),
            )
    else:  # something round
        centre, axes = ((x0 + x1) // 2, (y0 + y1) // 2), (max(1, (x1 - x0) // 2), max(1, (y1 - y0) // 3))
        color = tuple(float(c) for c in _colour(rng, (0.1, 1.0), 0.35))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, color, -1)


def _fill(image: np.ndarray, x0: int, y0: int, x1: int, y1: int, color: np.ndarray) -> None:
    image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = color
