"""The procedural teacher: a performance played by a rendered person, as video, mask, point tracks and (apart) truth.

What a fitting stage may see is `TeacherClip`: frames, foreground mask, tracks measured by optical flow. What only
evaluation may see is `ClipTruth`: where the surface really was.

Legend: T frames, H height, W width, P tracks, Q truth vertices.
Source: AudioAvatar section "Video Diffusion Distillation" (hybrid data synthesis); the role of OmniAvatar and the
other audio-driven video models is taken here by graphics, so that the default needs no downloaded weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from avatar_core.geometry.camera import Camera
from avatar_core.perception.backends import PointTracker
from avatar_core.procedural.people import Person, framing_camera, relaxed_pose
from avatar_core.procedural.people.anny_export import BODY_VERTICES
from avatar_core.procedural.performance import Performance
from avatar_core.template.landmarks import FACE_LANDMARKS

TRUTH_STEP_M = (
    2e-5  # truth is stored on this grid: far below what a camera of these sizes resolves, and it compresses
)


@lru_cache(maxsize=1)
def truth_vertex_ids() -> np.ndarray:
    """The vertices (Q,) int32, base.obj numbering, whose true positions are kept: all facial landmarks (lips, lids) and
    every fifth of the body."""
    landmarks = [index for group in FACE_LANDMARKS.values() for index in group]
    return np.union1d(np.asarray(landmarks), np.arange(0, BODY_VERTICES, 5)).astype(np.int32)


@dataclass(frozen=True)
class TeacherClip:
    """frames (T,H,W,3) uint8 RGB, masks (T,H,W) uint8 0..255, tracks (T,P,2) float32 px with NaN where absent."""

    frames: np.ndarray
    masks: np.ndarray
    tracks: np.ndarray


@dataclass(frozen=True)
class ClipTruth:
    """vertex_ids (Q,) int32 in base.obj numbering; positions (T,Q,3) float32 metres, world; the true camera."""

    vertex_ids: np.ndarray
    positions: np.ndarray
    camera: Camera


def play(
    person: Person,
    performance: Performance,
    framing: str,
    size: int,
    *,
    neutral: np.ndarray,
    supersample: int,
    vertex_ids: np.ndarray,
    tracks: PointTracker,
    progress: Callable[[int], None] = lambda frames: None,
) -> tuple[TeacherClip, ClipTruth]:
    """Render a performance.

    framing: one of avatar_core.procedural.people.FRAMINGS; size: side of the square frame in pixels; neutral (52,): the resting
    face, to which the performance adds; progress(frames) is called as frames are done.
    """
    camera = framing_camera(person.vertices(None, relaxed_pose(), None), framing, size)
    frames, masks, positions = [], [], []
    for t in range(len(performance.face_weights)):
        face = np.maximum(neutral, performance.face_weights[t])
        pose = (face, performance.rotvecs[t], performance.translation[t])
        rgb, alpha = person.render(*pose, camera, supersample=supersample)
        frames.append(rgb)
        masks.append(alpha)
        positions.append(person.vertices(*pose)[vertex_ids])
        progress(1)
    stacked, stacked_masks = np.stack(frames), np.stack(masks)
    truth = np.round(np.stack(positions) / TRUTH_STEP_M) * TRUTH_STEP_M
    clip = TeacherClip(stacked, stacked_masks, tracks.track(stacked, stacked_masks))
    return clip, ClipTruth(vertex_ids.astype(np.int32), truth.astype(np.float32), camera)
