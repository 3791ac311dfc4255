"""Landmarks inside regions: face mesh with attention, body, hand. Each call runs one net on a batch of regions.

Legend: N regions, S side of a net's input.
Source: Grishchenko et al., "Attention Mesh" (2020); Bazarevsky et al., "BlazePose" (2020); Zhang et al., "MediaPipe Hands" (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar_core.perception.holistic.graph import load_graph
from avatar_core.perception.holistic.mesh_parts import EYE_LEFT, EYE_RIGHT, LIPS
from avatar_core.perception.holistic.regions import Picture, to_picture

FACE_SIZE, BODY_SIZE, HAND_SIZE, HAND_BOX_SIZE = 192, 256, 224, 256
CHUNK = 16  # regions a call of a net, for the processor's cache and for memory
HEAT_SIZE, HEAT_REACH, HEAT_LEAST = 64, 4, 0.5


@dataclass(frozen=True)
class Bodies:
    """points (N,33,2) px, visibility and presence (N,33), world (N,33,3) m, flag (N,): is there a body.

    centre, top (N,2) px: of the next region.
    """

    points: np.ndarray
    visibility: np.ndarray
    presence: np.ndarray
    world: np.ndarray
    centre: np.ndarray
    top: np.ndarray
    flag: np.ndarray


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


def _run(name: str, pictures: Sequence[Picture], regions: np.ndarray, size: int) -> list[np.ndarray]:
    parts = []
    for first in range(0, len(regions), CHUNK):
        chosen = zip(pictures[first : first + CHUNK], regions[first : first + CHUNK], strict=True)
        crops = np.stack([picture.crop(region, size) for picture, region in chosen])
        parts.append(load_graph(name)(torch.from_numpy(crops).float() / 255))
    return [torch.cat(part).numpy() for part in zip(*parts, strict=True)]


def face_points(pictures: Sequence[Picture], regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regions (N,4) of N pictures -> face mesh (N,478,3), pixels and weak depth in pixels, and presence (N,)."""
    if not len(regions):
        return np.zeros((0, 478, 3)), np.zeros(0)
    mesh, lips, left, right, iris_left, iris_right, flag = _run("face", pictures, regions, FACE_SIZE)
    count = len(regions)
    points = np.zeros((count, 478, 3))
    points[:, :468] = mesh.reshape(count, 468, 3)
    for part, index in ((lips, LIPS), (left, EYE_LEFT), (right, EYE_RIGHT)):
        points[:, index, :2] = part.reshape(count, -1, 2)
    for part, first, corners in ((iris_left, 468, (33, 133)), (iris_right, 473, (362, 263))):
        points[:, first : first + 5, :2] = part.reshape(count, 5, 2)
        points[:, first : first + 5, 2] = points[:, corners, 2].mean(1, keepdims=True)
    share = regions[:, 2, None] / FACE_SIZE
    xy = to_picture(points[..., :2] / FACE_SIZE, regions)
    out = np.concatenate([xy, (points[..., 2] * share)[..., None]], -1)
    return out, _sigmoid(flag.reshape(count))


def _refined(points: np.ndarray, heat: Tensor) -> np.ndarray:
    """Points (N,39,2) in pixels of the heat maps (N,64,64,39), moved to the centre of mass of the 9 x 9 cells round them."""
    count, joints = points.shape[:2]
    reach = np.arange(-HEAT_REACH, HEAT_REACH + 1)
    cell = points.astype(np.int64)  # towards zero, as the original
    x = cell[..., 0, None] + reach
    y = cell[..., 1, None] + reach
    inside = ((x >= 0) & (x < HEAT_SIZE))[..., None, :] & ((y >= 0) & (y < HEAT_SIZE))[..., :, None]
    n, j = np.arange(count)[:, None, None, None], np.arange(joints)[None, :, None, None]
    rows, columns = y.clip(0, HEAT_SIZE - 1)[..., :, None], x.clip(0, HEAT_SIZE - 1)[..., None, :]
    mass = _sigmoid(heat.numpy()[n, rows, columns, j].astype(np.float64)) * inside
    total = mass.sum((2, 3))
    sure = (mass.max((2, 3)) >= HEAT_LEAST) & ((cell >= 0) & (cell < HEAT_SIZE)).all(-1)
    centre = np.stack([(mass * x[..., None, :]).sum((2, 3)), (mass * y[..., :, None]).sum((2, 3))], -1)
    return np.where(sure[..., None], centre / np.maximum(total, 1e-9)[..., None], points)


def body_points(pictures: Sequence[Picture], regions: np.ndarray) -> Bodies:
    """Regions (N,4) of N pictures -> bodies."""
    count = len(regions)
    raw, flag, _, heat, world = _run("body", pictures, regions, BODY_SIZE)
    values = raw.reshape(count, 39, 5).astype(np.float64)
    cells = _refined(values[..., :2] * (HEAT_SIZE / BODY_SIZE), torch.from_numpy(heat))
    points = to_picture(cells / HEAT_SIZE, regions)
    space = world.reshape(count, 39, 3)[:, :33].astype(np.float64)
    angle = regions[:, 3]
    c, s = np.cos(angle), np.sin(angle)
    turned = np.stack(  # the world of the region -> that of the picture
        [
            space[..., 0] * c[:, None] - space[..., 1] * s[:, None],
            space[..., 0] * s[:, None] + space[..., 1] * c[:, None],
            space[..., 2],
        ],
        -1,
    )
    return Bodies(
        points[:, :33],
        _sigmoid(values[:, :33, 3]),
        _sigmoid(values[:, :33, 4]),
        turned,
        points[:, 33],
        points[:, 34],
        flag.reshape(count).astype(np.float64),
    )


def hand_points(
    pictures: Sequence[Picture], regions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Regions (N,4) of N pictures -> points (N,21,3), pixels and weak depth; presence (N,); how surely a right hand (N,)."""
    if not len(regions):
        return np.zeros((0, 21, 3)), np.zeros(0), np.zeros(0)
    raw, flag, right, _ = _run("hand", pictures, regions, HAND_SIZE)
    points = raw.reshape(len(regions), 21, 3).astype(np.float64)
    xy = to_picture(points[..., :2] / HAND_SIZE, regions)
    depth = points[..., 2] * (regions[:, 2, None] / HAND_SIZE)
    return np.concatenate([xy, depth[..., None]], -1), flag.reshape(-1).copy(), right.reshape(-1).copy()


def hand_pair(pictures: Sequence[Picture], regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wide regions (N,4) that hold a hand -> its centre and top (N,2) in pixels."""
    (raw,) = _run("hand_box", pictures, regions, HAND_BOX_SIZE)
    pair = to_picture(raw.reshape(-1, 2, 2).astype(np.float64) / HAND_BOX_SIZE, regions)
    return pair[:, 0], pair[:, 1]
