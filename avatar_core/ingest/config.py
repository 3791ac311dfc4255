"""Limits of what is taken from a recorded video."""

from __future__ import annotations

from dataclasses import dataclass

from avatar_core.config import ranged


@dataclass(frozen=True)
class IngestConfig:
    """Lengths in seconds, sizes in pixels, turns in degrees; heights are those of the face, hairline to chin.

    The sync limits are standard deviations of the correlation at lags where nothing can correspond, see `ingest.sync`.
    """

    min_seconds: float = ranged(1.2, 0.5, 10)
    max_seconds: float = ranged(4.0, 1, 50)
    size: int = ranged(512, 128, 2048)  # longest side of a clip; smaller pictures are not enlarged
    min_side: int = ranged(256, 64)  # of the video: a portrait is cut from it
    min_face_px: int = ranged(56, 16)
    max_yaw: float = ranged(40.0, 0, 90)
    max_roll: float = ranged(35.0, 0, 90)
    max_pitch: float = ranged(35.0, 0, 90)
    max_travel: float = ranged(0.9)  # heights that the face may move within a clip
    max_growth: float = ranged(1.3, 1)  # how much larger it may become: somebody who comes nearer
    max_camera: float = ranged(
        0.012
    )  # share of the picture's height that the backdrop may move within a clip
    max_repeated: float = ranged(0.4, 0, 1)  # share of pictures that show nothing new
    min_voice: float = ranged(0.3, 0, 1)  # share of a clip's frames with a voice
    min_lips: float = ranged(0.004)  # standard deviation of the opening of the lips, in heights
    sync_frames: int = ranged(4)  # lips and sound may be so far apart; real lips lead by one or two frames
    sync_search: int = ranged(25, 5, 50)
    sync_sure: float = ranged(2.5)  # peak from which the lips count as those of the sound
    sync_shift: float = ranged(3.7)  # peak from which the sound is moved to where it fits
    sync_seconds: float = ranged(6.0)  # with less than this to compare, a weak peak is no reason to refuse
    same_person: float = ranged(0.6)  # distance of face descriptors
