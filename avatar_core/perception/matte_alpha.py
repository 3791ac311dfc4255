"""Closed-form matting in a band: alpha of the pixels that a rough mask leaves open.

Around each pixel alpha is taken for a linear function of the colours, so that hair, whose mask is coarse, follows the picture. The
linear system is set up for the unknown pixels alone, at a reduced size, and its local linear functions are then applied to the
full picture.

Legend: H W pixels, U unknown pixels, P pixels of the system, M windows.
Source: Levin, Lischinski and Weiss, "A Closed-Form Solution to Natural Image Matting" (PAMI 2008); the upsampling is that of
He and Sun, "Fast Guided Filter" (2015).
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags, identity
from scipy.sparse.linalg import spsolve

EPSILON = 1e-4  # variance of colour below which a window counts as flat


def solve_alpha(image: np.ndarray, guess: np.ndarray, unknown: np.ndarray, trust: float) -> np.ndarray:
    """alpha (H,W) float32: `guess` (H,W) where it is known, else what fits the colours of image (H,W,3) in [0,1].

    unknown: (H,W) bool. trust: weight of `guess` in the unknown pixels, against the smoothness of alpha along colours (about 1).
    """
    if not unknown.any():
        return guess.astype(np.float32)
    # a ring more, so that every pixel has a window
    ring = ((1, 1), (1, 1))
    image = np.pad(image, (*ring, (0, 0)), mode="edge")
    guess, unknown = np.pad(guess, ring, mode="edge"), np.pad(unknown, ring, mode="edge")
    centre = cv2.dilate(unknown.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    centre[[0, -1]], centre[:, [0, -1]] = False, False
    inside = cv2.dilate(centre.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    index = np.full(unknown.shape, -1)
    index[inside] = np.arange(inside.sum())
    rows, columns = np.nonzero(centre)
    dy, dx = (a.ravel() for a in np.mgrid[-1:2, -1:2])
    window = index[rows[:, None] + dy, columns[:, None] + dx]  # (M,9)
    colors = image[inside].astype(np.float64)[window]  # (M,9,3)
    centred = colors - colors.mean(1, keepdims=True)
    covariance = np.einsum("mki,mkj->mij", centred, centred) / 9 + EPSILON / 9 * np.eye(3)
    affinity = (1 + np.einsum("mki,mij,mlj->mkl", centred, np.linalg.inv(covariance), centred)) / 9
    count = int(inside.sum())
    i = np.repeat(window, 9, 1).ravel()
    j = np.tile(window, (1, 9)).ravel()
    similar = coo_matrix((affinity.ravel(), (i, j)), (count, count)).tocsr()
    laplacian = csr_matrix(diags(np.asarray(similar.sum(1))[:, 0]) - similar)
    start, free = guess[inside].astype(np.float64), unknown[inside]
    known = np.where(free, 0, start)
    system = (laplacian[free][:, free] + trust * identity(int(free.sum()))).tocsc()
    found = np.asarray(spsolve(system, trust * start[free] - (laplacian @ known)[free]))
    alpha = guess.astype(np.float32).copy()
    alpha[unknown] = np.clip(found, 0, 1)
    return alpha[1:-1, 1:-1]


def linear_upsample(small: np.ndarray, alpha: np.ndarray, image: np.ndarray) -> np.ndarray:
    """alpha (h,w) of picture small (h,w,3) -> alpha (H,W) of the same picture at full size, image (H,W,3)."""
    box = lambda a: cv2.blur(a, (3, 3))  # noqa: E731
    mean, mean_alpha = box(small), box(alpha)
    outer = [
        box(small[..., i] * small[..., j]) - mean[..., i] * mean[..., j] for i in range(3) for j in range(3)
    ]
    covariance = np.stack(outer, -1).reshape(*alpha.shape, 3, 3) + EPSILON * np.eye(3, dtype=np.float32)
    cross = np.stack([box(small[..., i] * alpha) - mean[..., i] * mean_alpha for i in range(3)], -1)
    slope = np.linalg.solve(covariance, cross[..., None])[..., 0].astype(np.float32)
    offset = mean_alpha - (slope * mean).sum(-1)
    size = (image.shape[1], image.shape[0])
    slope, offset = (cv2.resize(box(a), size, interpolation=cv2.INTER_LINEAR) for a in (slope, offset))
    return np.clip((slope * image).sum(-1) + offset, 0, 1)
