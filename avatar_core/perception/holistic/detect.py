"""Single-shot detectors of faces, bodies and palms: anchors, decoding, weighted non-maximum suppression.

Legend: N pictures, A anchors, D detections, P the detector's points.
Source: Bazarevsky et al., "BlazeFace" (2019); the numbers are those of MediaPipe's graphs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from avatar_core.perception.holistic.graph import load_graph
from avatar_core.perception.holistic.regions import Picture, to_picture

OVERLAP = 0.3  # intersection over union from which two boxes show the same


@dataclass(frozen=True)
class Detector:
    """size: side of the input in pixels. strides, anchors: one entry a layer. low: darkest input value, 1 is the brightest."""

    size: int
    strides: tuple[int, ...]
    anchors: int
    low: float


DETECTORS = {
    "face_near": Detector(128, (8, 16, 16, 16), 2, -1.0),
    "face_far": Detector(192, (4,), 1, -1.0),
    "body_box": Detector(224, (8, 16, 32, 32, 32), 2, -1.0),
    "palm": Detector(192, (8, 16, 16, 16), 2, 0.0),
}


@dataclass(frozen=True)
class Detections:
    """score (D,), box (D,4) upright x0 y0 x1 y1 round the box found, points (D,P,2), all in pixels; best first."""

    score: np.ndarray
    box: np.ndarray
    points: np.ndarray


@functools.cache
def anchor_centres(name: str) -> np.ndarray:
    """Centres (A,2) of the detector's anchors in shares of its input."""
    detector = DETECTORS[name]
    out = []
    for stride in dict.fromkeys(detector.strides):
        cells = detector.size // stride
        grid = (np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), -1) + 0.5) / cells
        out.append(np.repeat(grid.reshape(-1, 2), detector.anchors * detector.strides.count(stride), 0))
    return np.concatenate(out)


def _merged(score: np.ndarray, box: np.ndarray, points: np.ndarray) -> list[tuple]:
    """Boxes that overlap the best one become one, each with the weight of its score; then the best of the rest."""
    found = []
    rest = np.argsort(-score, kind="stable")
    area = np.prod(np.maximum(box[:, 2:] - box[:, :2], 0), 1)
    while len(rest):
        best = rest[0]
        low = np.maximum(box[best, :2], box[rest, :2])
        high = np.minimum(box[best, 2:], box[rest, 2:])
        shared = np.prod(np.maximum(high - low, 0), 1)
        near = shared > OVERLAP * (area[best] + area[rest] - shared)
        near[0] = True
        group, rest = rest[near], rest[~near]
        weight = score[group] / score[group].sum()
        found.append((score[best], weight @ box[group], np.tensordot(weight, points[group], 1), len(group)))
    return found


def detect(
    name: str, pictures: Sequence[Picture], regions: np.ndarray, threshold: float = 0.5
) -> list[Detections]:
    """Run a detector on a region (N,4) of each of N pictures -> what it finds there, in pixels of the pictures.

    A box's corners are those of its upright frame in the region; `box` is the square of the same size round its centre.
    """
    detector = DETECTORS[name]
    crops = [
        picture.crop(region, detector.size, cv2.BORDER_CONSTANT)
        for picture, region in zip(pictures, regions, strict=True)
    ]
    images = torch.from_numpy(np.stack(crops)).float() / 255 * (1 - detector.low) + detector.low
    raw, logits = load_graph(name)(images)
    scores = torch.sigmoid(logits[..., 0].clamp(-100, 100)).numpy().astype(np.float64)
    values = raw.numpy().astype(np.float64) / detector.size
    anchors = anchor_centres(name)
    out = []
    for score, value, region in zip(scores, values, regions, strict=True):
        keep = np.flatnonzero(score > threshold)
        centre, extent = value[keep, :2] + anchors[keep], value[keep, 2:4]
        points = value[keep, 4:].reshape(len(keep), (value.shape[1] - 4) // 2, 2) + anchors[keep, None]
        box = np.concatenate([centre - extent / 2, centre + extent / 2], 1)
        found = _merged(score[keep], box, points)
        count = len(found)
        boxes = np.array([f[1] for f in found]).reshape(count, 2, 2)
        marks = np.array([f[2] for f in found]).reshape(count, points.shape[1], 2)
        place = np.repeat(region[None], count, 0)
        middle = to_picture(boxes.mean(1, keepdims=True), place)[:, 0]
        half = (boxes[:, 1] - boxes[:, 0]) / 2 * region[2]
        out.append(
            Detections(
                np.array([f[0] for f in found]),
                np.concatenate([middle - half, middle + half], 1),
                to_picture(marks, place),
            )
        )
    return out
