"""Teacher backend `folder`: videos made elsewhere, e.g. by a video diffusion model given our portrait and wav, or recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avatar_core.config import given
from avatar_core.errors import UserError
from avatar_core.teacher import MAX_FRAMES, ClipRequest, TeacherClip


@dataclass(frozen=True)
class FolderTeacher:
    """`path` holds `<clip>.mp4` for each clip of data/speech/catalog.parquet that this teacher is dealt.

    A video may go on after the clip's sound, which `speech.max_seconds` may have cut; a larger one is brought to `teacher.size`.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    path: str = given("a folder of videos")

    def make(self, request: ClipRequest) -> TeacherClip:
        """Read a video of any size. Raises UserError: none, or it ends more than a frame before the sound."""
        import cv2
        import numpy as np

        from avatar_core.io.video import read_video

        path = Path(self.path, f"{request.name}.mp4")
        if not path.is_file():
            raise UserError(f"{path}: expected the video of clip {request.name}, found no such file")
        frames = read_video(path, MAX_FRAMES)[: request.num_frames]
        if len(frames) < request.num_frames - 1:
            raise UserError(
                f"{path}: expected {request.num_frames} frames at 25 fps as its sound, found {len(frames)}"
            )
        frames = np.concatenate([frames, frames[-1:].repeat(request.num_frames - len(frames), 0)])
        height, width = frames.shape[1:3]
        scale = min(1.0, request.size / max(height, width))
        size = (round(width * scale) // 2 * 2, round(height * scale) // 2 * 2)  # even: 4:2:0 colour
        if size != (width, height):
            frames = np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in frames])
        return TeacherClip(frames)
