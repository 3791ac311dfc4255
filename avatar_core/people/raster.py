"""Single-threaded numba z-buffer rasteriser: visibility, vertex normals, linear blend skinning.

All kernels are sequential (the pipeline runs one process per core), so results do not depend on thread count.
Legend: V vertices, F triangles, H x W samples. Screen points are (x, y, w) with w = 1/depth, or any quantity that is
larger nearer to the viewer and linear over the screen.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def rasterize_triangles(screen, triangles, cut, depth, owner):  # noqa: C901 - one tight kernel
    """Fill depth (H, W) float32 (start at 0) and owner (H, W) int32 triangle ids (start at -1).

    screen (V, 3); triangles (F, 3) int32; cut (V,): samples whose interpolated cut is positive are discarded.
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
        xs = max(0, int(math.ceil(xmin - 0.5)))
        xe = min(width - 1, int(math.floor(xmax - 0.5)))
        ys = max(0, int(math.ceil(ymin - 0.5)))
        ye = min(height - 1, int(math.floor(ymax - 0.5)))
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
        inv = 1.0 / area
        docut = c0 > 0 or c1 > 0 or c2 > 0
        dw0 = (by - cy) * inv
        dw1 = (cy - ay) * inv
        dw2 = -dw0 - dw1
        dz = dw0 * (az - cz) + dw1 * (bz - cz)
        px = xs + 0.5
        for y in range(ys, ye + 1):
            py = y + 0.5
            w0 = ((bx - px) * (cy - py) - (cx - px) * (by - py)) * inv
            w1 = ((cx - px) * (ay - py) - (ax - px) * (cy - py)) * inv
            w2 = 1.0 - w0 - w1
            lo = 0.0
            hi = float(xe - xs)
            if dw0 > 0:
                lo = max(lo, -w0 / dw0)
            elif dw0 < 0:
                hi = min(hi, -w0 / dw0)
            elif w0 < 0:
                continue
            if dw1 > 0:
                lo = max(lo, -w1 / dw1)
            elif dw1 < 0:
                hi = min(hi, -w1 / dw1)
            elif w1 < 0:
                continue
            if dw2 > 0:
                lo = max(lo, -w2 / dw2)
            elif dw2 < 0:
                hi = min(hi, -w2 / dw2)
            elif w2 < 0:
                continue
            k0 = int(math.ceil(lo - 1e-4))
            k1 = int(math.floor(hi + 1e-4))
            z = w0 * az + w1 * bz + w2 * cz + k0 * dz
            for k in range(k0, k1 + 1):
                x = xs + k
                if z > depth[y, x]:
                    keep = True
                    if docut:
                        a0 = w0 + k * dw0
                        a1 = w1 + k * dw1
                        a2 = 1.0 - a0 - a1
                        keep = a0 * az * c0 + a1 * bz * c1 + a2 * cz * c2 <= 0
                    if keep:
                        depth[y, x] = z
                        owner[y, x] = t
                z += dz


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def vertex_normals(points, triangles, normals):
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
def skin_points(points, weights_index, weights, transforms, out):
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


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def add_scaled(points, index, shapes, weights):
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


def barycentric_image(screen: np.ndarray, triangles: np.ndarray, owner: np.ndarray, values: np.ndarray) -> np.ndarray:
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
