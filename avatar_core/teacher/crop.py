"""Square windows on a clip; the one that the score teacher looks through stays on the mouth while the head moves.

Pixel centres lie at +0.5. Shapes: T frames, K keypoints of `template.landmarks.KEYPOINTS`, P points, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from avatar_core.critics import Critics
from avatar_core.errors import UserError
from avatar_core.template.landmarks import indices

MOUTH_SIDE = 1.3  # of the distance between eyes and mouth: nose and chin are in, little else
MOUTH_HEIGHT = 0.45  # of the window: a little more room below the mouth than above, the jaw drops
EVERY = 4  # frames between two looks for the mouth
STEADY = 3.0  # frames, standard deviation of the filter over the window's way
TRUSTED = 0.3  # mean confidence of the lips from which a frame counts


@dataclass(frozen=True)
class Window:
    """corner (T,2): left and top in pixels; side in pixels."""

    corner: np.ndarray
    side: float

    def cut(self, frames: np.ndarray, size: int) -> np.ndarray:
        """Frames (T,H,W,C) or (T,H,W) uint8 -> (T,size,size[,C])."""
        step = self.side / size
        if step > 1:
            frames = np.stack([cv2.GaussianBlur(f, (0, 0), 0.4 * step) for f in frames])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out = []
        for frame, (x, y) in zip(frames, self.corner + 0.5 * step - 0.5, strict=True):
            place = np.array([[step, 0, x], [0, step, y]])
            out.append(
                cv2.warpAffine(frame, place, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            )
        return np.stack(out)

    def points(self, xy: np.ndarray, size: int) -> np.ndarray:
        """Pixels (T,P,2) of the frames -> pixels of the windows."""
        return (xy - self.corner[:, None]) * (size / self.side)

    def intrinsics(self, K: np.ndarray, size: int) -> np.ndarray:
        """K (3,3) of the frames -> (T,3,3) float32 of the windows."""
        Ks = np.repeat(np.asarray(K, np.float64)[None], len(self.corner), 0)
        Ks[:, :2, 2] -= self.corner
        Ks[:, :2] *= size / self.side
        return Ks.astype(np.float32)


def whole_window(shape: tuple[int, int, int]) -> Window:
    """The largest square at the top left of frames of shape (T,H,W)."""
    return Window(np.zeros((shape[0], 2)), float(min(shape[1:])))


def mouth_window(frames: np.ndarray, critics: Critics) -> Window:
    """Where the score teacher looks in a close clip's frames (T,H,W,3)."""
    at = np.unique([*range(0, len(frames), EVERY), len(frames) - 1])
    return window_round_mouth(*critics.keypoints(frames[at]), at, len(frames))


def window_round_mouth(xy: np.ndarray, confidence: np.ndarray, at: np.ndarray, total: int) -> Window:
    """Keypoints xy (n,K,2) px with confidence (n,K) in the frames `at` (n,) of a clip of `total` frames.

    Between looks, and where no mouth is seen, the window glides. UserError where none is seen at all.
    """
    lips, eyes = indices("lips"), indices("eyelids")
    seen = confidence[:, lips].mean(1) > TRUSTED
    if not seen.any():
        raise UserError("clip: expected a face close to the camera, found no mouth in its frames")
    mouth, eye = xy[seen][:, lips].mean(1), xy[seen][:, eyes].mean(1)
    side = max(8.0, MOUTH_SIDE * float(np.median(np.linalg.norm(eye - mouth, axis=-1))))
    way = np.stack([np.interp(np.arange(total), at[seen], mouth[:, k]) for k in (0, 1)], 1)
    way = gaussian_filter1d(way, STEADY, axis=0, mode="nearest")
    return Window(way - [0.5 * side, MOUTH_HEIGHT * side], side)
