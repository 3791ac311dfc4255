"""Metrics that are means over clips: IQA ASE HKC SyncC SyncD CSIM SSIM PSNR.

Definitions: IQA, ASE mean image quality and aesthetics per frame (Q-Align's 1..5 scale; `embedded` are regressors of known damage);
SyncC, SyncD see `sync`; HKC mean confidence of the hand keypoints (CyberHost, Lin et al. 2024); CSIM mean likeness of portrait and
frames: the cosine of ArcFace's embeddings where the user brings that network, else 1 - distance / 1.2 of dlib's descriptors (1 the
same picture, above .5 the same person), 0 for a frame without a face; SSIM, PSNR see `image`, over the person
where a clip says where that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from avatar_core.io.images import to_uint8
from avatar_core.metrics.bootstrap import bootstrap
from avatar_core.metrics.clip import FRAME_STEP, Look, Value
from avatar_core.metrics.image import psnr, ssim
from avatar_core.metrics.reference import OnnxFeatures, Referenced, read_score
from avatar_core.perception import warp
from avatar_core.perception.boxes import head_box
from avatar_core.perception.warp import as_float

if TYPE_CHECKING:
    from avatar_core.perception.instruments import Critics


@dataclass(frozen=True)
class ClipMetric(Referenced):
    """A number a clip; the value is their mean with a bootstrap interval. Subclasses give `score`."""

    higher_is_better: ClassVar[bool] = True

    def score(self, look: Look) -> float:
        raise NotImplementedError

    def measure(self, look: Look) -> float:
        if self.reference is not None:
            return read_score(self.reference, look.clip.row, look.clip.id)
        return self.score(look)

    def summarise(
        self, name: str, measured: Sequence[float], people: Sequence[str], draws: int, seed: int
    ) -> Value:
        interval = bootstrap(list(measured), draws=draws, seed=seed, groups=people)
        return Value(name, interval.value, interval.low, interval.high, interval.samples, self.backend, "ok")


class IQA(ClipMetric):
    wanted = "Q-Align quality scores: JSON {row: {clip id: 1..5}}"

    def score(self, look: Look) -> float:
        return float(np.mean(look.critics.quality(look.sparse)))


class ASE(ClipMetric):
    wanted = "Q-Align aesthetics scores: JSON {row: {clip id: 1..5}}"

    def score(self, look: Look) -> float:
        return float(np.mean(look.critics.aesthetics(look.sparse)))


class HKC(ClipMetric):
    wanted = "hand keypoint confidences of a whole-body estimator: JSON {row: {clip id: 0..1}}"

    def score(self, look: Look) -> float:
        if not look.clip.hands_seen:
            raise ValueError("hands are not in the framing")
        layout = look.critics.layout
        return float(look.keypoints[1][:, np.concatenate([layout.hand_left, layout.hand_right])].mean())


class SyncC(ClipMetric):
    wanted = "SyncNet scores: JSON {row: {clip id: LSE-C}} written by the published SyncNet"

    def score(self, look: Look) -> float:
        return float(look.sync.confidence)


class SyncD(ClipMetric):
    higher_is_better = False
    wanted = "SyncNet scores: JSON {row: {clip id: LSE-D}} written by the published SyncNet"

    def score(self, look: Look) -> float:
        return float(look.sync.distance)


class CSIM(ClipMetric):
    wanted = "ArcFace (512-d), ONNX, input (1,3,112,112) RGB in [-1,1]"
    side = 112

    def measure(self, look: Look) -> float:
        return self.score(look)

    def score(self, look: Look) -> float:
        portrait = look.clip.portrait
        if portrait is None:
            raise ValueError("no portrait")
        if self.reference is not None:
            network = OnnxFeatures(self.reference, self.side)
            there, _ = look.critics.keypoints(portrait)
            own = network(head_crops(look.critics, portrait[None], there))
            seen = network(head_crops(look.critics, look.sparse, look.keypoints[0][::FRAME_STEP]))
            own /= np.linalg.norm(own, axis=-1, keepdims=True)
            seen /= np.linalg.norm(seen, axis=-1, keepdims=True)
        else:
            return _face_likeness(portrait, look.sparse)
        return float((seen @ own[0]).mean())


def _face_likeness(portrait: NDArray, frames: NDArray) -> float:
    """Mean over frames (B,H,W,3) of the likeness of their face to the portrait's (H,W,3). ValueError when that has none."""
    from avatar_core.perception.face_identity import describe, face_chip, likeness
    from avatar_core.perception.holistic.clip import track_face

    frames = to_uint8(frames)
    own = _descriptor(to_uint8(portrait).tobytes(), *portrait.shape[:2])
    mesh, presence = track_face(frames)
    there = np.flatnonzero(presence > 0)
    if not len(there):
        return 0.0
    seen = describe(np.stack([face_chip(frames[i], mesh[i]) for i in there]))
    return float(likeness(own, seen).sum() / len(frames))


@lru_cache(maxsize=4)  # every row of a clip is compared with one portrait
def _descriptor(portrait: bytes, height: int, width: int) -> NDArray:
    """Of the largest face in an RGB picture of 8 bits. ValueError when it has none."""
    from avatar_core.perception.face_identity import describe, face_chip
    from avatar_core.perception.holistic.people import find_people

    picture = np.frombuffer(portrait, np.uint8).reshape(height, width, 3)
    people = [p for p in find_people(picture) if p.face_presence > 0]
    if not people:
        raise ValueError("no face in the portrait")
    return describe(face_chip(picture, people[0].face)[None])[0]


class SSIM(ClipMetric):
    formula = True

    def score(self, look: Look) -> float:
        return float(np.mean([ssim(a, b, mask) for a, b, mask in look.pairs]))


class PSNR(ClipMetric):
    formula = True

    def score(self, look: Look) -> float:
        return float(np.mean([psnr(a, b, mask) for a, b, mask in look.pairs]))


def head_crops(critics: Critics, images: NDArray, keypoints: NDArray, size: int = 112) -> NDArray[np.float32]:
    """Square head crops (B,size,size,3) of images (B,H,W,3) for a reference identity network."""
    found = head_box(keypoints[:, critics.layout.face].astype(float))
    crops = [
        warp.warp(as_float(image), warp.crop_matrix(box[:2], box[2], size), size)
        for image, box in zip(images, found, strict=True)
    ]
    return np.stack(crops)
