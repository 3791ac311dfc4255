"""The square round the mouth that the score teacher knows: found from face keypoints, the same for a whole clip.

Legend: T frames, K keypoints of `template.landmarks.KEYPOINTS`, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from avatar_core.critics import Critics
from avatar_core.errors import UserError
from avatar_core.template.landmarks import indices

MOUTH_SIDE = 1.7  # of the distance between eyes and mouth: from under the eyes to below the chin
TRUSTED = 0.3  # mean confidence of the lips from which a frame counts


@dataclass(frozen=True)
class Square:
    """A square window in pixels: left, top, side."""

    x0: int
    y0: int
    side: int

    def cut(self, frames: np.ndarray, size: int) -> np.ndarray:
        """Frames (T,H,W,3) uint8 -> (T,size,size,3)."""
        window = frames[:, self.y0 : self.y0 + self.side, self.x0 : self.x0 + self.side]
        mode = cv2.INTER_AREA if size < self.side else cv2.INTER_LINEAR
        return np.stack([cv2.resize(frame, (size, size), interpolation=mode) for frame in window])


def mouth_window(frames: np.ndarray, critics: Critics) -> Square:
    """Where the score teacher looks in a close clip's frames (T,H,W,3)."""
    some = frames[:: max(1, len(frames) // 8)]
    return mouth_square(*critics.keypoints(some), frames.shape[1:3])


def mouth_square(xy: np.ndarray, confidence: np.ndarray, shape: tuple[int, int]) -> Square:
    """Keypoints xy (T,K,2) px with confidence (T,K) of frames of shape (H,W) -> the window round the mouth.

    Medians over the frames that show a mouth; UserError where none does.
    """
    lips, eyes = indices("lips"), indices("eyelids")
    seen = confidence[:, lips].mean(1) > TRUSTED
    if not seen.any():
        raise UserError("clip: expected a face close to the camera, found no mouth in its frames")
    mouth = np.median(xy[seen][:, lips].mean(1), 0)
    height = float(np.median(np.linalg.norm(xy[seen][:, eyes].mean(1) - xy[seen][:, lips].mean(1), axis=-1)))
    side = int(np.clip(round(MOUTH_SIDE * height), 8, min(shape)))
    # A little more room below the mouth than above: the jaw drops.
    x0, y0 = (round(float(v)) for v in mouth - [0.5 * side, 0.45 * side])
    return Square(int(np.clip(x0, 0, shape[1] - side)), int(np.clip(y0, 0, shape[0] - side)), side)
