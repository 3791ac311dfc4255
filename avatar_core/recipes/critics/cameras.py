"""Cameras of the critics' data: turned about the person, reframed, or cropped to some points."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from avatar_core.geometry.camera import Camera


def turn_camera(camera: Camera, pivot: NDArray, yaw: float, pitch: float, roll: float) -> Camera:
    """Camera seen after turning the world round `pivot` (3,): yaw about Z, pitch about X, roll about Y, radians."""
    turn = Rotation.from_euler("zxy", [yaw, pitch, roll]).as_matrix()
    world = np.eye(4)
    world[:3, :3] = turn
    world[:3, 3] = pivot - turn @ pivot
    return dataclasses.replace(camera, viewmat=(camera.viewmat @ world).astype(np.float32))


def shake_camera(
    camera: Camera, pivot: NDArray, rng: np.random.Generator, turn: float, shift: float
) -> Camera:
    """Random turn (radians) and framing (share of the image) of a camera."""
    camera = turn_camera(
        camera, pivot, rng.uniform(-turn, turn), rng.uniform(-turn, turn) / 3, rng.uniform(-turn, turn) / 4
    )
    zoom = np.exp(rng.uniform(-shift, shift))
    dx, dy = rng.uniform(-shift, shift, 2)
    w, h = camera.width, camera.height
    change = np.array(
        [[zoom, 0, w * (0.5 - 0.5 * zoom + dx)], [0, zoom, h * (0.5 - 0.5 * zoom + dy)], [0, 0, 1]]
    )
    return dataclasses.replace(camera, K=(change @ camera.K).astype(np.float32))


def crop_to(camera: Camera, points: NDArray, size: int, margin: float) -> Camera:
    """Camera whose size x size image is the square round the projected points (P,3) with a margin factor."""
    xy, _ = camera.project(points)
    low, high = xy.min(0), xy.max(0)
    side = float(max((high - low).max(), 4.0)) * margin
    x0, y0 = (low + high) / 2 - side / 2
    scale = size / side
    change = np.array([[scale, 0, -x0 * scale], [0, scale, -y0 * scale], [0, 0, 1]])
    return dataclasses.replace(camera, K=(change @ camera.K).astype(np.float32), width=size, height=size)
