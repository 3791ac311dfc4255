"""Keypoints by DWPose or RTMW: 133 points of COCO-WholeBody by an ONNX network that reads a person's box, as rtmlib runs it.

Where a detector of people (YOLOX in ONNX) is given, it finds the box, else the whole picture is. Pictures go in as RGB, as the
networks were trained (rtmlib leaves the channels as OpenCV reads them); YOLOX was trained on BGR.

Legend: B pictures, K keypoints of `template.landmarks.KEYPOINTS`, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from avatar_core.config import one_of, ranged
from avatar_core.errors import UserError
from avatar_core.io.images import to_uint8
from avatar_core.models.card import Card, failures, need_packages
from avatar_core.models.weights import DEVICES, OnnxNetwork, checked_file, find_file, load_onnx
from avatar_core.perception.simcc import SPLIT, pose_input, pose_output
from avatar_core.perception.wholebody_map import SOURCES, WHOLEBODY, template_keypoints

STRIDES = (8, 16, 32)  # of YOLOX's grids
GREY = 114
OVERLAP = 0.45  # of two boxes of one person


@dataclass(frozen=True)
class WholebodyKeypoints:
    """path, sha256: the pose network; detector_path, detector_sha256: YOLOX, or none. least: a person's score."""

    where: ClassVar[str] = "perception.wholebody"
    path: str = ""
    sha256: str = ""
    detector_path: str = ""
    detector_sha256: str = ""
    least: float = ranged(0.3, 0, 1)
    device: str = one_of("cpu", *DEVICES)

    @property
    def card(self) -> Card:
        return Card(
            Path(self.path).name or "DWPose or RTMW", "Apache-2.0", "unknown",
            "its training sets (COCO-WholeBody, UBody, ...) have terms of their own",
            revision=self.sha256, url="https://github.com/Tau-J/rtmlib",
        )  # fmt: skip

    def folders(self) -> dict[Path, str]:
        """See `models.card.Published`."""
        return {find_file(path, sha256, key, what): sha256 for path, sha256, key, what in self._files()}

    def lacking(self) -> list[str]:
        """See `models.card.Published`."""
        return failures(lambda: need_packages(self.where, "models", "onnxruntime"), self.folders)

    def keypoints(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `backends.KeypointDetector`."""
        pose, *detector = (load_onnx(checked_file(*given), given[1], self.device) for given in self._files())
        points = np.zeros((len(images), SOURCES, 2))
        scores = np.zeros((len(images), SOURCES))
        for k, image in enumerate(images):
            picture = to_uint8(image)
            height, width = picture.shape[:2]
            box = (
                find_person(detector[0], picture, self.least) if detector else np.array([0, 0, width, height])
            )
            if box is not None:
                points[k, :WHOLEBODY], scores[k, :WHOLEBODY] = find_points(pose, picture, box)
        height, width = np.shape(images)[1:3]
        return template_keypoints(points, scores, width, height)

    def _files(self) -> list[tuple[str, str, str, str]]:
        files = [(self.path, self.sha256, f"{self.where}.path", "a pose network (DWPose or RTMW) in ONNX")]
        if self.detector_path:
            key = f"{self.where}.detector_path"
            files.append(
                (self.detector_path, self.detector_sha256, key, "a detector of people (YOLOX) in ONNX")
            )
        return files


def find_points(network: OnnxNetwork, picture: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The person in a box x0 y0 x1 y1 of a picture (H,W,3) uint8 -> pixels (133,2), scores (133,). UserError: another network."""
    height, width = network.input_size()
    blob, place = pose_input(picture, box, width, height)
    outputs = network.run(blob.transpose(1, 2, 0))
    wanted = [(1, WHOLEBODY, n * SPLIT) for n in (width, height)]
    if [np.shape(o) for o in outputs] != wanted:
        raise UserError(f"{network.file}: expected outputs {wanted}, found {[np.shape(o) for o in outputs]}")
    points, scores = pose_output(outputs[0], outputs[1])
    return points[0] * place[0, 0] + place[:, 2], scores[0]


def find_person(network: OnnxNetwork, picture: np.ndarray, least: float) -> np.ndarray | None:
    """x0 y0 x1 y1 of the largest person of a picture (H,W,3) uint8, None where nobody is. UserError: another network.

    YOLOX as exported, (1,A,5 + classes) of raw boxes on its grids, or with its suppression, (1,N,5) of corners and score.
    """
    height, width = network.input_size()
    ratio = min(height / picture.shape[0], width / picture.shape[1])
    small = cv2.resize(
        picture,
        (int(picture.shape[1] * ratio), int(picture.shape[0] * ratio)),
        interpolation=cv2.INTER_LINEAR,
    )
    padded = np.full((height, width, 3), GREY, np.uint8)
    padded[: small.shape[0], : small.shape[1]] = small[..., ::-1]
    (found, *_) = network.run(padded)
    if found.ndim == 3 and found.shape[-1] == 5:
        corners, scores = found[0, :, :4], found[0, :, 4]
    elif (
        found.ndim == 3
        and found.shape[-1] > 5
        and found.shape[1] == sum(height // s * (width // s) for s in STRIDES)
    ):
        corners, scores = _from_grids(found[0], height, width)
    else:
        raise UserError(f"{network.file}: expected boxes of YOLOX, found an output {found.shape}")
    boxes = corners[scores > least] / ratio
    if not len(boxes):
        return None
    sizes = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return boxes[sizes.argmax()]


def _from_grids(found: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Raw boxes (A,5 + classes) -> corners (n,4) in the network's pixels and scores (n,) of class 0, people, one box each."""
    cells = [
        np.stack(np.meshgrid(np.arange(width // s), np.arange(height // s)), -1).reshape(-1, 2)
        for s in STRIDES
    ]
    stride = np.concatenate([np.full((len(c), 1), s) for c, s in zip(cells, STRIDES, strict=True)])
    centre = (found[:, :2] + np.concatenate(cells)) * stride
    size, scores = np.exp(found[:, 2:4].clip(max=20)) * stride, found[:, 4] * found[:, 5]
    boxes = np.concatenate([centre - size / 2, size], 1)
    kept = np.asarray(cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0.01, OVERLAP), int).reshape(-1)
    return np.concatenate([boxes[kept, :2], boxes[kept, :2] + boxes[kept, 2:]], 1), scores[kept]
