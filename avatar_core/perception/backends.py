"""The detectors that the pipeline looks through, by role: keypoints, foreground masks, point tracks. One registry each.

A detector of your own is one frozen dataclass in one file (its fields are its parameters) and one line here. The metrics do not
look through these: they have instruments of their own, so that a detector cannot judge itself.

Legend: B pictures, T frames, H W pixels, K keypoints of `template.landmarks.KEYPOINTS`, P tracks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from avatar_core.backends import chosen_backends, default_backends, parse_choices
from avatar_core.config import derived_by
from avatar_core.perception.foreground import Matte

KEYPOINTS = {
    "holistic": "avatar_core.perception.holistic.keypoints:HolisticKeypoints",
    "critics": "avatar_core.perception.critic_keypoints:CriticKeypoints",
    "wholebody": "avatar_core.perception.wholebody:WholebodyKeypoints",
    "openpose": "avatar_core.perception.openpose:OpenPoseKeypoints",
}
MASKS = {
    "grabcut": "avatar_core.perception.foreground:GrabCutMasks",
    "matte": "avatar_core.perception.matte:MatteMasks",
    "rembg": "avatar_core.perception.onnx_matte:OnnxMasks",
}
TRACKS = {
    "optical_flow": "avatar_core.perception.tracks:OpticalFlowTracks",
    "cotracker": "avatar_core.perception.cotracker:CoTracker",
}
ROLES = {"keypoints": KEYPOINTS, "masks": MASKS, "tracks": TRACKS}


class KeypointDetector(Protocol):
    def keypoints(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One picture of a person or the frames of one shot (B,H,W,3), float in [0,1] or uint8 -> pixels (B,K,2),
        confidence (B,K) in [0,1]."""
        ...


@runtime_checkable
class NamedKeypoints(Protocol):
    """A keypoint detector that must know whom it looks at."""

    def named(self, name: str) -> KeypointDetector:
        """Of a person or clip of the catalogue."""
        ...


class MaskDetector(Protocol):
    def mask(self, image: np.ndarray) -> np.ndarray:
        """One picture (H,W,3) -> which pixels show the person, (H,W) bool."""
        ...

    def matte(self, image: np.ndarray, xy: np.ndarray, confidence: np.ndarray) -> Matte:
        """A portrait (H,W,3) float32 in [0,1], the keypoints (K,2) px and confidence (K,) of the person that is wanted -> the
        person cut out."""
        ...


class PointTracker(Protocol):
    def track(self, frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Frames (T,H,W,3) uint8, masks (T,H,W), foreground > 0 -> pixels (T,P,2), NaN where a track is not alive."""
        ...


@dataclass(frozen=True)
class PerceptionConfig:
    """Which detector plays each role; their parameters in sections of their own names."""

    keypoints: str = "holistic"
    masks: str = "matte"
    tracks: str = "optical_flow"
    chosen: dict[str, Any] = derived_by(lambda: default_backends(ROLES, PerceptionConfig))

    @classmethod
    def parse(cls, raw: Mapping[str, Any], file: str, key: str) -> PerceptionConfig:
        """Raises UserError naming `file` and the key below `key`."""
        return parse_choices(cls, ROLES, raw, file, key)

    def to_dict(self) -> dict[str, Any]:
        """What `parse` reads, for a checkpoint's sidecar."""
        return chosen_backends(ROLES, self)

    @property
    def keypoint_detector(self) -> KeypointDetector:
        return cast(KeypointDetector, self.chosen["keypoints"])

    def named(self, name: str) -> PerceptionConfig:
        """The detectors for a person or clip of the catalogue."""
        keypoints = self.chosen["keypoints"]
        if not isinstance(keypoints, NamedKeypoints):
            return self
        return replace(self, chosen=self.chosen | {"keypoints": keypoints.named(name)})

    @property
    def mask_detector(self) -> MaskDetector:
        return cast(MaskDetector, self.chosen["masks"])

    @property
    def point_tracker(self) -> PointTracker:
        return cast(PointTracker, self.chosen["tracks"])


def clip_masks(detector: MaskDetector, frames: np.ndarray) -> np.ndarray:
    """A clip's frames (T,H,W,3) uint8 -> masks (T,H,W) uint8, 0 or 255, each frame on its own."""
    return np.stack([detector.mask(frame) for frame in frames]).astype(np.uint8) * 255
