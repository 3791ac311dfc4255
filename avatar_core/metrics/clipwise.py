"""Metrics that are means over clips: IQA ASE HKC SyncC SyncD CSIM SSIM PSNR.

Definitions: IQA, ASE mean image quality and aesthetics per frame (Q-Align's 1..5 scale; `embedded` are regressors of known damage);
SyncC, SyncD see `sync` (embedded) and `syncnet` (published); HKC mean confidence of the hand keypoints, see
`perception.simcc`; CSIM mean likeness of portrait and frames: the cosine of ArcFace's embeddings where
the user brings that network, else 1 - distance / 1.2 of dlib's descriptors (1 the same picture, above .5 the same person), 0 for a
frame without a face; SSIM, PSNR see `image`, over the person where a clip says where that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from avatar_core.io.images import to_uint8
from avatar_core.metrics.bootstrap import bootstrap
from avatar_core.metrics.clip import FRAME_STEP, Look, Value
from avatar_core.metrics.image import psnr, ssim
from avatar_core.metrics.networks import Signature
from avatar_core.metrics.reference import Referenced, read_score
from avatar_core.perception.simcc import HANDS, HKC_VERSION, SPLIT, hand_confidence, pose_input, pose_output

DWPOSE_WIDTH, DWPOSE_HEIGHT, DWPOSE_POINTS = 288, 384, 133
MESH_EYES, MESH_NOSE, MESH_MOUTH = (
    ((33, 133), (263, 362)),
    1,
    (61, 291),
)  # of the face mesh, left to right in the picture


@dataclass(frozen=True)
class ClipMetric(Referenced):
    """A number a clip; the value is their mean with a bootstrap interval. Subclasses give `score` and, where a published network
    can stand behind it, `published`."""

    higher_is_better: ClassVar[bool] = True

    def score(self, look: Look) -> float:
        raise NotImplementedError

    def published(self, look: Look) -> float:
        """The score by the network behind `path`."""
        raise NotImplementedError

    def measure(self, look: Look) -> float:
        if self.score_file is not None:
            return read_score(self.score_file, look.clip.row, look.clip.id)
        return self.published(look) if self.path else self.score(look)

    def summarise(
        self, name: str, measured: Sequence[float], people: Sequence[str], draws: int, seed: int
    ) -> Value:
        interval = bootstrap(list(measured), draws=draws, seed=seed, groups=people)
        found = (interval.value, interval.low, interval.high, interval.samples)
        return Value(name, *found, self.backend, "ok", self.note)


@dataclass(frozen=True)
class QAlign(ClipMetric):
    """The network gives the five levels' logits, from excellent to bad, for its prompt; the score is their mean level, 5 to 1."""

    scores = True
    signature = Signature((3, 448, 448), (5,))

    def published(self, look: Look) -> float:
        from avatar_core.metrics.preprocess import qalign_input

        (logits,) = self.run(look.device)(qalign_input(to_uint8(look.sparse)))
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return float((shares / shares.sum(1, keepdims=True) @ np.arange(5, 0, -1)).mean())


class IQA(QAlign):
    wanted = "Q-Align asked for quality: (3,448,448) -> logits of excellent, good, fair, poor, bad; or its scores in JSON"

    def score(self, look: Look) -> float:
        return float(np.mean(look.critics.quality(look.sparse)))


class ASE(QAlign):
    wanted = "Q-Align asked for aesthetics: (3,448,448) -> logits of excellent, good, fair, poor, bad; or its scores in JSON"

    def score(self, look: Look) -> float:
        return float(np.mean(look.critics.aesthetics(look.sparse)))


class HKC(ClipMetric):
    """Of every third frame. DWPose is given all of the picture as the box; points out of it count as they are scored."""

    wanted = "DWPose: (3,384,288) -> 133 points by 576 and by 768 bins; or hand confidences in JSON"
    scores = True
    signature = Signature(
        (3, DWPOSE_HEIGHT, DWPOSE_WIDTH),
        tuple(DWPOSE_POINTS * SPLIT * side for side in (DWPOSE_WIDTH, DWPOSE_HEIGHT)),
    )

    @property
    def note(self) -> str:
        return f"{HKC_VERSION} {super().note}" if self.path and self.score_file is None else super().note

    def measure(self, look: Look) -> float:
        if not look.clip.hands_seen:
            raise ValueError("hands are not in the framing")
        return super().measure(look)

    def published(self, look: Look) -> float:
        frames = to_uint8(look.sparse)
        box = np.array([0, 0, frames.shape[2], frames.shape[1]])
        pictures = np.stack([pose_input(frame, box, DWPOSE_WIDTH, DWPOSE_HEIGHT)[0] for frame in frames])
        bins = (v.reshape(len(v), DWPOSE_POINTS, -1) for v in self.run(look.device)(pictures))
        return hand_confidence(pose_output(*bins)[1][:, HANDS])

    def score(self, look: Look) -> float:
        layout = look.critics.layout
        return hand_confidence(look.keypoints[1][:, np.concatenate([layout.hand_left, layout.hand_right])])


@dataclass(frozen=True)
class Sync(ClipMetric):
    """SyncC and SyncD: the same file for both, looked at once a clip."""

    wanted = "SyncNet's weights (safetensors) or TorchScript with forward_lip and forward_aud; or its scores in JSON"
    scores = True

    def load(self, device: str) -> object:
        from avatar_core.metrics.syncnet import load_syncnet

        assert self.reference is not None
        return load_syncnet(self.reference, device)

    def distances(self, look: Look) -> tuple[float, float]:
        """SyncC and SyncD of the published network."""
        from avatar_core.metrics.syncnet import load_syncnet, sync_distances

        assert self.reference is not None
        clip = look.clip
        if clip.audio is None:
            raise ValueError("no audio")
        if not clip.mouth_seen:
            raise ValueError("the mouth is too small in the framing")
        if self.reference not in look.memory:
            net = load_syncnet(self.reference, look.device)
            found = sync_distances(net, to_uint8(clip.frames), look.face_boxes, clip.audio)
            look.memory[self.reference] = found[:2]
        return look.memory[self.reference]


class SyncC(Sync):
    def score(self, look: Look) -> float:
        return float(look.sync.confidence)

    def published(self, look: Look) -> float:
        return self.distances(look)[0]


class SyncD(Sync):
    higher_is_better = False

    def score(self, look: Look) -> float:
        return float(look.sync.distance)

    def published(self, look: Look) -> float:
        return self.distances(look)[1]


class CSIM(ClipMetric):
    wanted = "ArcFace: (3,112,112) -> 512 numbers"
    signature = Signature((3, 112, 112), (512,))

    def measure(self, look: Look) -> float:
        if look.clip.portrait is None:
            raise ValueError("no portrait")
        return super().measure(look)

    def published(self, look: Look) -> float:
        from avatar_core.metrics.preprocess import arcface_input
        from avatar_core.perception.holistic.people import find_people

        assert look.clip.portrait is not None
        portrait = to_uint8(look.clip.portrait)
        people = [p for p in find_people(portrait) if p.face_presence > 0]
        if not people:
            raise ValueError("no face in the portrait")
        frames, faces = to_uint8(look.sparse), look.people.face[::FRAME_STEP]
        there = np.flatnonzero(look.people.face_presence[::FRAME_STEP] > 0)
        seen = [arcface_input(frames[i], five_points(faces[i])) for i in there]
        (found,) = self.run(look.device)(
            np.stack([arcface_input(portrait, five_points(people[0].face)), *seen])
        )
        unit = found / np.linalg.norm(found, axis=1, keepdims=True)
        return float((unit[1:] @ unit[0]).sum() / len(frames))

    def score(self, look: Look) -> float:
        assert look.clip.portrait is not None
        return _face_likeness(look.clip.portrait, look.sparse)


def five_points(mesh: NDArray) -> NDArray[np.float64]:
    """A face mesh (478,2 or 3) px -> eyes, nose, corners of the mouth (5,2), left to right in the picture."""
    points = np.asarray(mesh, np.float64)[:, :2]
    eyes = [points[list(corners)].mean(0) for corners in MESH_EYES]
    return np.stack([*eyes, points[MESH_NOSE], *points[list(MESH_MOUTH)]])


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
    def score(self, look: Look) -> float:
        return float(np.mean([ssim(a, b, mask) for a, b, mask in look.pairs]))


class PSNR(ClipMetric):
    def score(self, look: Look) -> float:
        return float(np.mean([psnr(a, b, mask) for a, b, mask in look.pairs]))
