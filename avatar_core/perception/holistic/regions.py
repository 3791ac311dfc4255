"""Where the nets look: turned squares of a picture, and how one net's points place the square of the next.

A region is (cx, cy, side, angle) in pixels and radians, clockwise on screen; regions are (N,4) float64. Pixel centres lie at +0.5.

Legend: N regions, P points.
Source: the rules are those of MediaPipe's graphs (pose, hand, face and holistic landmarks, 0.10).
"""

from __future__ import annotations

import cv2
import numpy as np

FACE_MARGIN = 1.5  # round a box of the detector, as the original
MESH_MARGIN = 1.3  # round a mesh; the original's 1.5 reads lips as well within the spread of clips
BODY_MARGIN = 1.25
PALM_MARGIN, PALM_SHIFT = 2.6, -0.5
HAND_MARGIN, HAND_SHIFT = 2.0, -0.1
WRIST_MARGIN = 2.7
PALM_POINTS = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]
EYE_R, EYE_L = 33, 263  # outer corners of the eyes in the face mesh


class Picture:
    """A picture (H,W,3) uint8 and its halvings, made when they are needed: a small crop of a large photo does not alias."""

    def __init__(self, image: np.ndarray) -> None:
        self.levels = [image]
        self.height, self.width = image.shape[:2]

    def crop(self, region: np.ndarray, size: int, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
        """(4,) -> (size,size,3) uint8."""
        cx, cy, side, angle = region
        level = max(0, int(np.floor(np.log2(max(side / size, 1.0)))))
        while len(self.levels) <= level and min(self.levels[-1].shape[:2]) > 1:
            self.levels.append(
                cv2.resize(self.levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            )
        image = self.levels[min(level, len(self.levels) - 1)]
        sx, sy = image.shape[1] / self.width, image.shape[0] / self.height
        c, s = np.cos(angle) * side / size, np.sin(angle) * side / size
        linear = np.array([[c * sx, -s * sx], [s * sy, c * sy]])
        origin = np.array([cx * sx, cy * sy]) - linear @ [size / 2 - 0.5, size / 2 - 0.5] - 0.5
        place = np.concatenate([linear, origin[:, None]], 1)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, place, (size, size), flags=flags, borderMode=border)


def turned(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Points (N,P,2) turned clockwise on screen by angles (N,) round the origin."""
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)  # (N,2,2)
    return points @ rotation.transpose(0, 2, 1)


def to_picture(points: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Points (N,P,2) in shares of their region, 0 to 1 -> pixels of the picture."""
    return turned((points - 0.5) * regions[:, None, 2:3], regions[:, 3]) + regions[:, None, :2]


def whole(width: int, height: int) -> np.ndarray:
    """The square that holds a whole picture: (1,4)."""
    return np.array([[width / 2, height / 2, max(width, height), 0.0]])


def _angle(start: np.ndarray, end: np.ndarray, target: float) -> np.ndarray:
    """Turn (N,) that brings the line from start to end (N,2) to `target`, counted from the right towards the top."""
    line = end - start
    turn = target - np.arctan2(-line[:, 1], line[:, 0])
    return turn - 2 * np.pi * np.floor((turn + np.pi) / (2 * np.pi))


def _regions(centre: np.ndarray, side: np.ndarray, angle: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """shift: along the region's own downward axis, in sides before the margin."""
    down = turned(np.tile([[[0.0, 1.0]]], (len(centre), 1, 1)), angle)[:, 0]
    centre = centre + shift * np.asarray(side)[:, None] * down
    return np.concatenate([centre, np.asarray(side)[:, None], angle[:, None]], 1)


def _scaled(regions: np.ndarray, margin: float) -> np.ndarray:
    return regions * np.array([1.0, 1.0, margin, 1.0])


def face_from_box(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Face boxes (N,4) x0 y0 x1 y1 and the detector's points (N,6,2), the eyes first."""
    size = (boxes[:, 2:] - boxes[:, :2]).max(1)
    angle = _angle(points[:, 0], points[:, 1], 0.0)
    return _scaled(_regions((boxes[:, 2:] + boxes[:, :2]) / 2, size, angle), FACE_MARGIN)


def face_from_mesh(points: np.ndarray) -> np.ndarray:
    """Face mesh (N,P,2)."""
    angle = _angle(points[:, EYE_R], points[:, EYE_L], 0.0)
    return _scaled(_upright(points[:, :468], angle), MESH_MARGIN)


def _upright(points: np.ndarray, angle: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """The square round points (N,P,2) whose sides are turned by angle (N,)."""
    own = turned(points, -angle)
    low, high = own.min(1), own.max(1)
    extent = high - low
    middle = (low + high) / 2 + np.stack([np.zeros(len(own)), shift * extent[:, 1]], -1)
    centre = turned(middle[:, None], angle)[:, 0]
    return np.concatenate([centre, extent.max(1, keepdims=True), angle[:, None]], 1)


def body_from_points(centre: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Middle of the hips (N,2) and a point on the circle round the whole body (N,2)."""
    side = 2 * np.linalg.norm(top - centre, axis=1)
    return _scaled(_regions(centre, side, _angle(centre, top, np.pi / 2)), BODY_MARGIN)


def hand_from_palm(boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Palm boxes (N,4) x0 y0 x1 y1 and the detector's points (N,7,2): the wrist first, the middle finger third."""
    size = (boxes[:, 2:] - boxes[:, :2]).max(1)
    angle = _angle(points[:, 0], points[:, 2], np.pi / 2)
    return _scaled(_regions((boxes[:, 2:] + boxes[:, :2]) / 2, size, angle, PALM_SHIFT), PALM_MARGIN)


def hand_from_points(points: np.ndarray) -> np.ndarray:
    """Hand points (N,21,2)."""
    middle = (points[:, 5] + points[:, 13]) / 4 + points[:, 9] / 2
    angle = _angle(points[:, 0], middle, np.pi / 2)
    return _scaled(_upright(points[:, PALM_POINTS], angle, HAND_SHIFT), HAND_MARGIN)


def hand_from_body(wrist: np.ndarray, little: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Where the body's points (N,2) say that a hand is, widely: for the net that places the hand's own region."""
    middle = (2 * index + little) / 3
    side = 2 * np.linalg.norm(middle - wrist, axis=1)
    return _scaled(_regions(middle, side, _angle(wrist, middle, np.pi / 2)), WRIST_MARGIN)


def hand_from_pair(centre: np.ndarray, top: np.ndarray) -> np.ndarray:
    """The two points (N,2) of the net that places a hand's region."""
    side = 2 * np.linalg.norm(top - centre, axis=1)
    return _regions(centre, side, _angle(centre, top, -np.pi / 2), HAND_SHIFT)
