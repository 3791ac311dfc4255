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
    """`path` holds `<clip>.mp4` for each clip of data/speech/catalog.parquet that this teacher is dealt."""

    provides: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    path: str = given("a folder of videos")

    def make(self, request: ClipRequest) -> TeacherClip:
        """Read a video of any size. Raises UserError: none, or its length differs from the sound's by more than a frame."""
        from avatar_core.io.video import read_video

        path = Path(self.path, f"{request.name}.mp4")
        if not path.is_file():
            raise UserError(f"{path}: expected the video of clip {request.name}, found no such file")
        frames = read_video(path, MAX_FRAMES)
        if abs(len(frames) - request.num_frames) > 1:
            raise UserError(
                f"{path}: expected {request.num_frames} frames at 25 fps as its sound, found {len(frames)}"
            )
        return TeacherClip(frames[: request.num_frames])
