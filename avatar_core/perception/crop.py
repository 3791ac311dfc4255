"""Square windows that move with a clip's frames: cropping pictures and setting them in, mapping points and intrinsics, storing.

Pixel centres lie at +0.5. Shapes: T frames, P points, H height, W width, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from avatar_core.errors import UserError
from avatar_core.io.store import Store, write_arrays


@dataclass(frozen=True)
class Window:
    """corner (T,2) float64: left and top in pixels; side in pixels."""

    corner: np.ndarray
    side: float

    @classmethod
    def of(cls, rows: np.ndarray) -> Window:
        """What `rows` gave."""
        return cls(rows[:, :2].copy(), float(rows[0, 2]))

    def rows(self) -> np.ndarray:
        """(T,3) float64 for a store: left, top, side of each frame."""
        return np.column_stack([self.corner, np.full(len(self.corner), self.side)])

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

    def paste(self, frames: np.ndarray, patches: np.ndarray, soft: float) -> np.ndarray:
        """The inverse of `cut`: frames (T,H,W,3) uint8 with patches (T,size,size,3) set in, both uint8 -> the same shape.

        soft: share of the side along which the edge fades. Locked by test_what_was_cut_is_set_in_where_it_was.
        """
        size, (height, width) = patches.shape[1], frames.shape[1:3]
        step = self.side / size
        inside = np.minimum(np.arange(size) + 0.5, size - 0.5 - np.arange(size)) / size
        fade = np.clip(inside / soft, 0, 1)
        fade = fade * fade * (3 - 2 * fade)
        mask = np.outer(fade, fade).astype(np.float32)
        out = []
        for frame, patch, (x, y) in zip(frames, patches, self.corner + 0.5 * step - 0.5, strict=True):
            place = np.array([[step, 0, x], [0, step, y]])
            picture = cv2.warpAffine(
                patch.astype(np.float32), place, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
            )  # fmt: skip
            share = cv2.warpAffine(mask, place, (width, height), flags=cv2.INTER_LINEAR)[..., None]
            out.append(np.clip(share * picture + (1 - share) * frame + 0.5, 0, 255).astype(np.uint8))
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


def write_windows(path: str | os.PathLike, windows: Mapping[str, Window]) -> None:
    """A store of windows by clip, one after the other in one array `window` (T,3), `Window.rows`; nothing rounded."""
    ends = np.cumsum([len(window.corner) for window in windows.values()], dtype=int).tolist()
    spans = {
        clip: [end - len(window.corner), len(window.corner)]
        for (clip, window), end in zip(windows.items(), ends, strict=True)
    }
    rows = np.concatenate([window.rows() for window in windows.values()])
    write_arrays(path, {"window": rows}, {"clips": spans})


def read_window(store: Store, clip: str) -> Window:
    """One clip's window of a store of `write_windows`. Raises UserError when there is none or it is damaged."""
    if clip not in (clips := store.attrs.get("clips", {})):
        raise UserError(
            f"{store.path}: expected a window of clip {clip!r}, found those of {len(clips)} others"
        )
    start, length = clips[clip]
    return Window.of(store.read("window", start, start + length))
