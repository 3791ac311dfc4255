"""Single-threaded numba z-buffer rasteriser: visibility, vertex normals, linear blend skinning.

All kernels are sequential (the pipeline runs one process per core), so results do not depend on thread count.
Legend: V vertices, F triangles, H x W samples. Screen points are (x, y, w) with w = 1/depth, or any quantity that is
larger nearer to the viewer and linear over the screen.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from avatar_core.geometry.camera import Camera


@njit(inline="always")
def _narrow(lo: float, hi: float, weight: float, slope: float, steps: float) -> tuple[float, float]:
    """Columns lo..hi of a row, less those where weight + slope * column is negative; steps = -1 / slope. lo > hi: none."""
    if slope > 0:
        return max(lo, weight * steps), hi
    if slope < 0:
        return lo, min(hi, weight * steps)
    return lo, hi if weight >= 0 else -1.0


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def rasterize_triangles(
    screen: np.ndarray,
    triangles: np.ndarray,
    cut: np.ndarray,
    depth: np.ndarray,
    owner: np.ndarray,
    quick_from: int,
) -> None:
    """Fill depth (H, W) float32 (start at 0) and owner (H, W) int32 triangle ids (start at -1).

    screen (V, 3); triangles (F, 3) int32; cut (V,): samples whose interpolated cut is positive are discarded.
    quick_from: triangles from this index on are ribbons that may be skipped when their corners are hidden.
    """
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        i0 = triangles[t, 0]
        i1 = triangles[t, 1]
        i2 = triangles[t, 2]
        ay = screen[i0, 1]
        by = screen[i1, 1]
        cy = screen[i2, 1]
        ymin = min(ay, by, cy)
        ymax = max(ay, by, cy)
        if ymax < 0 or ymin >= height:
            continue
        ax = screen[i0, 0]
        bx = screen[i1, 0]
        cx = screen[i2, 0]
        xmin = min(ax, bx, cx)
        xmax = max(ax, bx, cx)
        if xmax < 0 or xmin >= width:
            continue
        xs = max(0, math.ceil(xmin - 0.5))
        xe = min(width - 1, math.floor(xmax - 0.5))
        ys = max(0, math.ceil(ymin - 0.5))
        ye = min(height - 1, math.floor(ymax - 0.5))
        if xe < xs or ye < ys:
            continue
        c0 = cut[i0]
        c1 = cut[i1]
        c2 = cut[i2]
        if c0 > 0 and c1 > 0 and c2 > 0:
            continue
        az = screen[i0, 2]
        bz = screen[i1, 2]
        cz = screen[i2, 2]
        if az <= 0 or bz <= 0 or cz <= 0:
            continue
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if area == 0:
            continue
        if (
            t >= quick_from
        ):  # thin ribbons: skip those whose corners all lie well behind what is already drawn
            hidden = True
            for i in (i0, i1, i2):
                x = int(screen[i, 0])
                y = int(screen[i, 1])
                if x < 0 or y < 0 or x >= width or y >= height or screen[i, 2] * 1.004 > depth[y, x]:
                    hidden = False
                    break
            if hidden:
                continue
        inv = 1.0 / area
        docut = c0 > 0 or c1 > 0 or c2 > 0
        # Barycentric weights are affine over the screen; w0 and w1 step by (d?x, d?y).
        d0x = (by - cy) * inv
        d1x = (cy - ay) * inv
        d2x = -d0x - d1x
        d0y = (cx - bx) * inv
        d1y = (ax - cx) * inv
        dz = d0x * (az - cz) + d1x * (bz - cz)
        r0 = -1.0 / d0x if d0x != 0 else 0.0
        r1 = -1.0 / d1x if d1x != 0 else 0.0
        r2 = -1.0 / d2x if d2x != 0 else 0.0
        px = xs + 0.5 - cx
        py = ys + 0.5 - cy
        w0 = px * d0x + py * d0y
        w1 = px * d1x + py * d1y
        span = float(xe - xs)
        for y in range(ys, ye + 1):
            w2 = 1.0 - w0 - w1
            lo, hi = _narrow(0.0, span, w0, d0x, r0)
            lo, hi = _narrow(lo, hi, w1, d1x, r1)
            lo, hi = _narrow(lo, hi, w2, d2x, r2)
            if lo <= hi + 2e-4:
                k0 = math.ceil(lo - 1e-4)
                k1 = math.floor(hi + 1e-4)
                z = w0 * az + w1 * bz + w2 * cz + k0 * dz
                for x in range(xs + k0, xs + k1 + 1):
                    if z > depth[y, x]:
                        keep = True
                        if docut:
                            a0 = w0 + (x - xs) * d0x
                            a1 = w1 + (x - xs) * d1x
                            keep = a0 * az * c0 + a1 * bz * c1 + (1.0 - a0 - a1) * cz * c2 <= 0
                        if keep:
                            depth[y, x] = z
                            owner[y, x] = t
                    z += dz
            w0 += d0y
            w1 += d1y


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def vertex_normals(points: np.ndarray, triangles: np.ndarray, normals: np.ndarray) -> None:
    """Area-weighted unit normals of a triangle mesh, written to normals (V, 3)."""
    normals[:] = 0
    for t in range(triangles.shape[0]):
        a = triangles[t, 0]
        b = triangles[t, 1]
        c = triangles[t, 2]
        ux = points[b, 0] - points[a, 0]
        uy = points[b, 1] - points[a, 1]
        uz = points[b, 2] - points[a, 2]
        wx = points[c, 0] - points[a, 0]
        wy = points[c, 1] - points[a, 1]
        wz = points[c, 2] - points[a, 2]
        nx = uy * wz - uz * wy
        ny = uz * wx - ux * wz
        nz = ux * wy - uy * wx
        for k in (a, b, c):
            normals[k, 0] += nx
            normals[k, 1] += ny
            normals[k, 2] += nz
    for i in range(normals.shape[0]):
        length = math.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2) + 1e-12
        normals[i, 0] /= length
        normals[i, 1] /= length
        normals[i, 2] /= length


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def skin_points(
    points: np.ndarray,
    weights_index: np.ndarray,
    weights: np.ndarray,
    transforms: np.ndarray,
    out: np.ndarray,
) -> None:
    """Linear blend skinning: points (V, 3), weights (V, K), transforms (B, 3, 4) -> out (V, 3)."""
    m = np.empty(12, np.float32)
    for i in range(points.shape[0]):
        for c in range(12):
            m[c] = 0
        for k in range(weights.shape[1]):
            w = weights[i, k]
            if w == 0:
                continue
            b = weights_index[i, k]
            for r in range(3):
                for c in range(4):
                    m[4 * r + c] += w * transforms[b, r, c]
        x = points[i, 0]
        y = points[i, 1]
        z = points[i, 2]
        for r in range(3):
            out[i, r] = m[4 * r] * x + m[4 * r + 1] * y + m[4 * r + 2] * z + m[4 * r + 3]


@njit(cache=True, nogil=True)
def chain_transforms(parents: np.ndarray, heads: np.ndarray, rotations: np.ndarray, out: np.ndarray) -> None:
    """Forward kinematics: out[b] = out[parent] . translate(h_b) . R_b . translate(-h_b); out (B, 3, 4), root preset."""
    for b in range(heads.shape[0]):
        p = parents[b]
        for r in range(3):
            if p < 0:
                continue
            for c in range(3):
                out[b, r, c] = (
                    out[p, r, 0] * rotations[b, 0, c]
                    + out[p, r, 1] * rotations[b, 1, c]
                    + out[p, r, 2] * rotations[b, 2, c]
                )
        h = heads[b]
        if p >= 0:
            for r in range(3):
                posed = out[p, r, 0] * h[0] + out[p, r, 1] * h[1] + out[p, r, 2] * h[2] + out[p, r, 3]
                out[b, r, 3] = posed - (out[b, r, 0] * h[0] + out[b, r, 1] * h[1] + out[b, r, 2] * h[2])


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def add_scaled(points: np.ndarray, index: np.ndarray, shapes: np.ndarray, weights: np.ndarray) -> None:
    """points[index] += sum_k weights[k] * shapes[k], summed in order; shapes (K, n, 3), index (n,)."""
    for k in range(shapes.shape[0]):
        w = weights[k]
        if w == 0:
            continue
        for i in range(index.shape[0]):
            j = index[i]
            points[j, 0] += w * shapes[k, i, 0]
            points[j, 1] += w * shapes[k, i, 1]
            points[j, 2] += w * shapes[k, i, 2]


def barycentric_image(
    screen: np.ndarray, triangles: np.ndarray, owner: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Interpolate per-vertex values (V, C) at the pixels of an owner image (H, W) -> (H, W, C); 0 where empty."""
    height, width = owner.shape
    rows, columns = np.nonzero(owner >= 0)
    corner = triangles[owner[rows, columns]]
    a, b, c = (screen[corner[:, k], :2].astype(np.float64) for k in range(3))
    p = np.stack([columns + 0.5, rows + 0.5], 1)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    w0 = ((b[:, 0] - p[:, 0]) * (c[:, 1] - p[:, 1]) - (c[:, 0] - p[:, 0]) * (b[:, 1] - p[:, 1])) / area
    w1 = ((c[:, 0] - p[:, 0]) * (a[:, 1] - p[:, 1]) - (a[:, 0] - p[:, 0]) * (c[:, 1] - p[:, 1])) / area
    weight = np.stack([w0, w1, 1 - w0 - w1], 1)
    out = np.zeros((height, width, values.shape[1]), np.float32)
    out[rows, columns] = (values[corner] * weight[..., None]).sum(1)
    return out


def project_points(points: np.ndarray, camera: Camera, samples: int, out: np.ndarray) -> None:
    """World points (N, 3) -> out (N, 3) float32: sample x, y and 1/depth (0 behind the camera)."""
    m = camera.viewmat
    p = [points[:, 0] * m[r, 0] + points[:, 1] * m[r, 1] + points[:, 2] * m[r, 2] + m[r, 3] for r in range(3)]
    inverse = np.where(p[2] > 0.01, 1 / np.maximum(p[2], 0.01), 0).astype(np.float32)
    out[:, 0] = (camera.K[0, 0] * p[0] * inverse + camera.K[0, 2]) * samples
    out[:, 1] = (camera.K[1, 1] * p[1] * inverse + camera.K[1, 2]) * samples
    out[:, 2] = inverse


def affine_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """points (N, 3) through an affine map (3, 4)."""
    out = np.empty_like(points)
    for r in range(3):
        out[:, r] = (
            points[:, 0] * matrix[r, 0]
            + points[:, 1] * matrix[r, 1]
            + points[:, 2] * matrix[r, 2]
            + matrix[r, 3]
        )
    return out
