"""What a metric is given and what it owes: a clip, a look at it that metrics share, a value, the protocol.

Legend: T frames, H W pixels, M mel bands, K keypoints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_core.io.images import to_uint8
from avatar_core.metrics.sync import SyncScores, sync_scores
from avatar_core.perception.warp import as_float

if TYPE_CHECKING:
    from avatar_core.perception.holistic.clip import ClipPoints
    from avatar_core.perception.instruments import Critics

RIM = 0.03  # of a picture's height
FRAME_STEP = 3  # every third frame for what is measured frame by frame: neighbours say the same


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip to score. frames (T,H,W,3), log_mel (4T,M) or None, audio (S,) at 16 kHz or None, truth frames of the same shape or
    None, portrait (H,W,3) or None; images float [0,1] or uint8. `mouth_seen`, `hands_seen`: whether the framing shows them.
    `row`: of the table, e.g. ours or ground_truth, by which the scores of published tools are looked up. `person`: who is in it,
    for intervals; `mask` (T,H,W), not 0 where the true frames show the person, or None for everywhere: what SSIM and PSNR see."""

    id: str
    frames: NDArray
    log_mel: NDArray | None = None
    truth: NDArray | None = None
    portrait: NDArray | None = None
    mouth_seen: bool = True
    hands_seen: bool = True
    row: str = "ours"
    person: str = ""
    mask: NDArray | None = None
    audio: NDArray | None = None


@dataclasses.dataclass(frozen=True)
class Value:
    """A metric's value with its 95% interval over people; `value` is None when `status` is "unavailable"."""

    metric: str
    value: float | None
    low: float | None
    high: float | None
    samples: int
    backend: str
    status: str
    note: str = ""


def unavailable(metric: str, backend: str, why: str) -> Value:
    """A value that says that it could not be had."""
    return Value(metric, None, None, None, 0, backend, "unavailable", why)


class Look:
    """A clip with what several metrics see in it, looked up once. A value raises ValueError where the clip lacks something.

    device: where published networks run; memory: what metrics of one such network share.
    """

    def __init__(self, clip: Clip, critics: Critics, device: str = "cpu") -> None:
        self.clip, self.critics, self.device = clip, critics, device
        self.memory: dict[Any, Any] = {}

    @cached_property
    def keypoints(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pixels (T,K,2) and confidence (T,K)."""
        return self.critics.keypoints(self.clip.frames)

    @cached_property
    def people(self) -> ClipPoints:
        """The person in every frame, by the detectors of real people."""
        from avatar_core.perception.holistic.clip import track_person

        return track_person(to_uint8(self.clip.frames))

    @property
    def face_boxes(self) -> NDArray[np.float64]:
        """The face mesh's left, top, right, bottom px (T,4), filled in between the frames that show a face."""
        there = np.flatnonzero(self.people.face_presence > 0)
        if not len(there):
            raise ValueError("no face in the frames")
        mesh = self.people.face[there][..., :2]
        seen = np.concatenate([mesh.min(1), mesh.max(1)], 1)
        every = np.arange(len(self.clip.frames))
        return np.stack([np.interp(every, there, column) for column in seen.T], 1)

    @property
    def sparse(self) -> NDArray:
        """Every FRAME_STEP-th frame."""
        return self.clip.frames[::FRAME_STEP]

    @cached_property
    def sync(self) -> SyncScores:
        if self.clip.log_mel is None:
            raise ValueError("no audio")
        if not self.clip.mouth_seen:
            raise ValueError("the mouth is too small in the framing")
        return sync_scores(*self.critics.sync(self.clip.frames, self.clip.log_mel, self.keypoints[0]))

    @cached_property
    def pairs(self) -> list[tuple[NDArray, NDArray, NDArray | None]]:
        """Frames and true frames in [0,1], and where the person is, RIM of the height wider: what spills over counts."""
        clip = self.clip
        if clip.truth is None or clip.truth.shape != clip.frames.shape:
            raise ValueError("no ground-truth frames of the same size and length")
        masks: Sequence[NDArray | None] = [None] * len(clip.frames)
        if clip.mask is not None:
            side = 2 * round(RIM * clip.frames.shape[1]) + 1
            rim = np.ones((side, side), np.uint8)
            masks = [cv2.dilate((m > 0).astype(np.uint8), rim) for m in clip.mask]
        return [(as_float(a), as_float(b), m) for a, b, m in zip(clip.frames, clip.truth, masks, strict=True)]


class Metric(Protocol):
    """One metric: a frozen dataclass whose fields are its parameters. `measure` runs in a worker, a clip at a time."""

    higher_is_better: ClassVar[bool]

    @property
    def backend(self) -> str:
        """What stands behind the value: "embedded", "reference" or "formula"."""
        ...

    def check(self, device: str = "cpu") -> None:
        """UserError for a file that is missing or not the one named, before long work starts on that device."""
        ...

    def measure(self, look: Look) -> Any:
        """What is kept of a clip. ValueError or UserError where the clip cannot be measured, with the reason."""
        ...

    def summarise(
        self, name: str, measured: Sequence[Any], people: Sequence[str], draws: int, seed: int
    ) -> Value:
        """A row's value from what `measure` gave and who each clip shows, at least one clip. ValueError where they are too few."""
        ...
