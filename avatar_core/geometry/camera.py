"""Pinhole cameras, OpenCV / gsplat convention: x right, y down, z forward; pixel centres at +0.5.

World: metres, Z up, the person faces -Y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

NEAR = 0.05  # m: nothing is projected from nearer than this


@dataclass(frozen=True)
class Camera:
    """viewmat (4, 4) world -> camera and K (3, 3) in pixels, float32; width and height in pixels."""

    viewmat: np.ndarray
    K: np.ndarray
    width: int
    height: int

    def tensors(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """viewmat and K on a device, kept there: a fit looks through one camera thousands of times."""
        kept = self.__dict__.setdefault("_tensors", {})
        if str(device) not in kept:
            kept[str(device)] = tuple(
                torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (self.viewmat, self.K)
            )
        return kept[str(device)]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (..., 3) -> pixels (..., 2) and depth (...) in metres."""
        p = np.asarray(points) @ self.viewmat[:3, :3].T + self.viewmat[:3, 3]
        depth = p[..., 2]
        xy = p[..., :2] / depth[..., None]
        return xy * np.array([self.K[0, 0], self.K[1, 1]]) + self.K[:2, 2], depth

    def unproject(self, xy: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """World points (P, 3) that pixels (P, 2) show at depths (P,) in metres."""
        x = (xy[:, 0] - self.K[0, 2]) * depth / self.K[0, 0]
        y = (xy[:, 1] - self.K[1, 2]) * depth / self.K[1, 1]
        return (np.stack([x, y, depth], 1) - self.viewmat[:3, 3]) @ self.viewmat[:3, :3]

    def crop(self, x0: float, y0: float, w: float, h: float, scale: float = 1.0) -> Camera:
        """The camera of the image window [x0, x0 + w) x [y0, y0 + h), resized by `scale`."""
        K = self.K.copy()
        K[0, 2] -= x0
        K[1, 2] -= y0
        K[:2] *= scale
        return Camera(self.viewmat, K, int(round(w * scale)), int(round(h * scale)))

    @property
    def position(self) -> np.ndarray:
        """World position of the eye, (3,)."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]


def project(points: Tensor, camera: Camera) -> Tensor:
    """World points (..., M, 3) -> pixels (..., M, 2), differentiable. The camera's K may be (..., 3, 3), one for each frame.

    Locked by test_project_agrees_with_the_camera_and_unproject_undoes_it.
    """
    return project_through(points, *camera.tensors(points.device))


def project_through(points: Tensor, viewmat: Tensor, K: Tensor) -> Tensor:
    """As `project`, by the camera's matrices (4,4) and (...,3,3)."""
    p = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    focal = K.diagonal(dim1=-2, dim2=-1)[..., None, :2]
    return p[..., :2] / p[..., 2:].clamp_min(NEAR) * focal + K[..., None, :2, 2]


def look_at(eye: ArrayLike, target: ArrayLike, fov_y_deg: float, width: int, height: int) -> Camera:
    """A camera at `eye` looking at `target`, world Z up; vertical field of view in degrees."""
    eye, target = np.asarray(eye, np.float64), np.asarray(target, np.float64)
    forward = target - eye
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right)
    down = np.cross(forward, right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([right, down, forward])
    viewmat[:3, 3] = -viewmat[:3, :3] @ eye
    focal = height / 2 / math.tan(math.radians(fov_y_deg) / 2)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(viewmat.astype(np.float32), K.astype(np.float32), width, height)


def rolled(camera: Camera, degrees: float) -> Camera:
    """The camera turned about its own axis: what it sees turns the other way."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[c, s, 0, 0], [-s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return replace(camera, viewmat=(turn @ camera.viewmat).astype(np.float32))
