"""Small numeric helpers of the painter: value noise, smooth steps, sRGB to linear colour."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import ArrayLike


@njit(inline="always")
def _hash(ix: int, iy: int, iz: int) -> float:
    n = (ix * 73856093) ^ (iy * 19349663) ^ (iz * 83492791)
    n = (n ^ (n >> 13)) * 1274126177
    n = (n ^ (n >> 16)) & 0xFFFF
    return n / 65535.0


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def noise3(x: float, y: float, z: float) -> float:
    """Smooth value noise in [-1, 1] with unit lattice spacing."""
    fx = math.floor(x)
    fy = math.floor(y)
    fz = math.floor(z)
    ix = int(fx)
    iy = int(fy)
    iz = int(fz)
    tx = x - fx
    ty = y - fy
    tz = z - fz
    tx = tx * tx * (3 - 2 * tx)
    ty = ty * ty * (3 - 2 * ty)
    tz = tz * tz * (3 - 2 * tz)
    a00 = _hash(ix, iy, iz) * (1 - tx) + _hash(ix + 1, iy, iz) * tx
    a10 = _hash(ix, iy + 1, iz) * (1 - tx) + _hash(ix + 1, iy + 1, iz) * tx
    a01 = _hash(ix, iy, iz + 1) * (1 - tx) + _hash(ix + 1, iy, iz + 1) * tx
    a11 = _hash(ix, iy + 1, iz + 1) * (1 - tx) + _hash(ix + 1, iy + 1, iz + 1) * tx
    b0 = a00 * (1 - ty) + a10 * ty
    b1 = a01 * (1 - ty) + a11 * ty
    return 2 * (b0 * (1 - tz) + b1 * tz) - 1


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def _fill_noise(points: np.ndarray, fx: float, fy: float, fz: float, out: np.ndarray) -> None:
    for i in range(points.shape[0]):
        out[i] = noise3(points[i, 0] * fx + 3, points[i, 1] * fy + 5, points[i, 2] * fz + 9)


def noise_at(points: np.ndarray, fx: float, fy: float, fz: float) -> np.ndarray:
    """Noise at points (..., 3) with frequencies in cycles per metre -> (...,) float32."""
    flat = np.ascontiguousarray(points.reshape(-1, 3), np.float32)
    out = np.empty(len(flat), np.float32)
    _fill_noise(flat, float(fx), float(fy), float(fz), out)
    return out.reshape(points.shape[:-1])


def smoothstep(a: float, b: float, x: np.ndarray) -> np.ndarray:
    """0 below a, 1 above b (or the other way round when a > b), cubic in between."""
    t = np.clip((x - a) / (b - a), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian bump exp(-(x / sigma)^2)."""
    return np.exp(-((x / sigma) ** 2))


def linear_rgb(color: ArrayLike) -> np.ndarray:
    """sRGB 0..255 triple -> linear float32 triple."""
    c = np.asarray(color, np.float64) / 255
    return np.where(c < 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4).astype(np.float32)
