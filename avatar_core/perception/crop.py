"""Square windows that move with a clip's frames: cropping pictures, mapping points and intrinsics, storing.

Pixel centres lie at +0.5. Shapes: T frames, P points, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from avatar_core.io.store import Store


@dataclass(frozen=True)
class Window:
    """corner (T,2) float64: left and top in pixels; side in pixels."""

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


def window_arrays(windows: Mapping[str, Window]) -> dict[str, np.ndarray]:
    """Windows by clip as arrays for a store: corner/<clip> (T,2), side/<clip> (1,), nothing rounded."""
    arrays = {f"corner/{clip}": window.corner for clip, window in windows.items()}
    return arrays | {f"side/{clip}": np.array([window.side]) for clip, window in windows.items()}


def read_window(store: Store, clip: str) -> Window:
    """One clip's window of a store of `window_arrays`. Raises UserError when there is none or it is damaged."""
    return Window(store.read(f"corner/{clip}"), float(store.read(f"side/{clip}")[0]))
