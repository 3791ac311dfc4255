"""The square round the head that the score teacher knows: found from the foreground mask, the same for a whole clip.

Legend: T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

HEAD_SHARE = 0.66  # of the frame's height in the face framing: the head and a little air


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


def head_square(masks: np.ndarray) -> Square:
    """masks (T,H,W) uint8 of a face-framed clip -> the window that holds the head in all its frames."""
    height, width = masks.shape[1:]
    solid = np.median(masks[:: max(1, len(masks) // 16)], 0) > 127
    rows = np.flatnonzero(solid.any(1))
    top = int(rows[0]) if len(rows) else 0
    side = min(round(HEAD_SHARE * height), width, height)
    columns = np.flatnonzero(solid[top : top + side // 3].any(0))
    middle = float(columns.mean()) if len(columns) else width / 2
    x0 = int(np.clip(round(middle - side / 2), 0, width - side))
    y0 = int(np.clip(top - round(0.03 * height), 0, height - side))
    return Square(x0, y0, side)
