"""Where the score teacher looks: a window that stays on the mouth while the head moves.

Shapes: T frames, n of them looked at, K keypoints of `template.landmarks.KEYPOINTS`.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from avatar_core.errors import UserError
from avatar_core.perception.crop import Window
from avatar_core.perception.instruments import Critics
from avatar_core.template.landmarks import indices

MOUTH_SIDE = 1.3  # of the distance between eyes and mouth: nose and chin are in, little else
MOUTH_HEIGHT = 0.45  # of the window: a little more room below the mouth than above, the jaw drops
EVERY = 4  # frames between two looks for the mouth
STEADY = 3.0  # frames, standard deviation of the filter over the window's way
GRID = 64  # steps a pixel of the window's place: the last bits of what the detectors said, which say nothing, end here
TRUSTED = 0.3  # mean confidence of the lips from which a frame counts


def mouth_window(frames: np.ndarray, critics: Critics) -> Window:
    """Where the score teacher looks in a close clip's frames (T,H,W,3). UserError where no mouth is seen at all."""
    at = np.unique([*range(0, len(frames), EVERY), len(frames) - 1])
    return window_round_mouth(*critics.keypoints(frames[at]), at, len(frames))


def window_round_mouth(xy: np.ndarray, confidence: np.ndarray, at: np.ndarray, total: int) -> Window:
    """Keypoints xy (n,K,2) px with confidence (n,K) in the frames `at` (n,) of a clip of `total` frames.

    Between looks, and where no mouth is seen, the window glides. UserError where none is seen at all.
    """
    lips, eyes = indices("lips"), indices("eyelids")
    seen = confidence[:, lips].mean(1) > TRUSTED
    if not seen.any():
        raise UserError("expected a face close to the camera, found no mouth in any frame")
    mouth, eye = xy[seen][:, lips].mean(1), xy[seen][:, eyes].mean(1)
    side = max(8.0, MOUTH_SIDE * float(np.median(np.linalg.norm(eye - mouth, axis=-1))))
    way = np.stack([np.interp(np.arange(total), at[seen], mouth[:, k]) for k in (0, 1)], 1)
    way = gaussian_filter1d(way, STEADY, axis=0, mode="nearest")
    side = round(GRID * side) / GRID
    return Window(np.round(GRID * (way - [0.5 * side, MOUTH_HEIGHT * side])) / GRID, side)
