"""Numbers of a face mesh: where it is, how it is turned, how far lips and eyes are open.

A mesh is (478,3) px: x right, y down, z away from the viewer in the same unit (MediaPipe's face mesh). Numbers are divided by the
height of the face, hairline to chin, measured in space, so that a turned head does not look like an open mouth.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import cv2
import numpy as np

FOREHEAD, CHIN, NOSE, UPPER_LIP, LOWER_LIP = 10, 152, 4, 13, 14
EYE_RIGHT, EYE_LEFT = (33, 133, 159, 145), (263, 362, 386, 374)  # outer, inner, upper, lower


class FaceFinder(Protocol):
    """What finds people: `perception.holistic.video`, or a stand-in of a test."""

    def find(self, image: np.ndarray) -> list[np.ndarray]:
        """All faces of a picture (H,W,3) uint8 as meshes, the largest first."""
        ...

    def follow(self, image: np.ndarray, mesh: np.ndarray) -> np.ndarray | None:
        """The face that was at `mesh` one frame ago; None when it is gone."""
        ...

    def person(self, image: np.ndarray) -> np.ndarray:
        """(H,W) in [0,1]: which pixels show people."""
        ...

    def joints(self, image: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """(33,) how surely the joints of the person whose face is at `middle` (2,) px are seen, in MediaPipe's order."""
        ...

    def describe(self, image: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        """(D,) descriptor of a face: near for pictures of one person, far for those of two."""
        ...


@dataclass(frozen=True)
class FaceShape:
    """One face in one frame. x, y, height px; yaw, pitch, roll degrees; lips, jaw, eyes: openings by height of the face;
    left, top, right, bottom px: its box; sharp: how much detail it has."""

    x: float
    y: float
    height: float
    yaw: float
    pitch: float
    roll: float
    lips: float
    jaw: float
    eyes: float
    left: float
    top: float
    right: float
    bottom: float
    sharp: float

    @classmethod
    def of(cls, mesh: np.ndarray, image: np.ndarray) -> FaceShape:
        """From a mesh and the picture (H,W,3) uint8 that it was found in."""
        height = _length(mesh[CHIN] - mesh[FOREHEAD])
        across, down = mesh[EYE_LEFT[0]] - mesh[EYE_RIGHT[0]], mesh[CHIN] - mesh[FOREHEAD]
        low, high = mesh[:468, :2].min(0), mesh[:468, :2].max(0)
        x, y = (low + high) / 2
        lids = [
            _length(mesh[up] - mesh[down_]) / max(_length(mesh[out] - mesh[inner]), 1e-6)
            for out, inner, up, down_ in (EYE_RIGHT, EYE_LEFT)
        ]
        return cls(
            x=float(x),
            y=float(y),
            height=height,
            yaw=float(np.degrees(np.arctan2(across[2], np.hypot(*across[:2])))),
            pitch=float(np.degrees(np.arctan2(down[2], np.hypot(*down[:2])))),
            roll=float(np.degrees(np.arctan2(across[1], across[0]))),
            lips=_length(mesh[UPPER_LIP] - mesh[LOWER_LIP]) / max(height, 1e-6),
            jaw=_length(mesh[NOSE] - mesh[CHIN]) / max(height, 1e-6),
            eyes=float(np.mean(lids)),
            left=float(low[0]),
            top=float(low[1]),
            right=float(high[0]),
            bottom=float(high[1]),
            sharp=_sharpness(image, low, high),
        )

    def row(self) -> np.ndarray:
        """(14,) in the order of the fields."""
        return np.array([getattr(self, f.name) for f in fields(self)], np.float64)


COLUMNS = {f.name: k for k, f in enumerate(fields(FaceShape))}


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (4,): left, top, right, bottom."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = float(np.prod(np.maximum(high - low, 0)))
    return both / max(float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both, 1e-9)


def _sharpness(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Standard deviation of the Laplacian of the face at 96 px, in grey levels."""
    x0, y0 = np.maximum(low, 0).astype(int)
    part = image[y0 : max(int(high[1]), y0 + 1), x0 : max(int(high[0]), x0 + 1)]
    if not part.size:
        return 0.0
    grey = cv2.resize(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), (96, 96), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).std())


def _length(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))
