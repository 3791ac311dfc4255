"""Errors of moving surfaces where ground truth exists: LVE, MVE, FDD.

Sources: LVE (lip vertex error) from Richard et al. 2021 (MeshTalk), MVE (mean vertex error), FDD (upper-face
dynamics deviation) from Xing et al. 2023 (CodeTalker). Here in metres, not squared.

Legend: T frames, V vertices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _check(ours: NDArray, truth: NDArray) -> NDArray[np.float64]:
    if ours.shape != truth.shape or ours.ndim != 3 or ours.shape[-1] != 3:
        raise ValueError(f"vertices: expected equal (T,V,3), found {ours.shape} and {truth.shape}")
    return np.linalg.norm(np.asarray(ours, np.float64) - truth, axis=-1)


def lip_vertex_error(ours: NDArray, truth: NDArray) -> float:
    """Lip vertices (T,V,3) in m -> the largest error of each frame, mean over frames, m. Lower is better.

    Locked by test_vertex_errors.
    """
    return float(_check(ours, truth).max(1).mean())


def mean_vertex_error(ours: NDArray, truth: NDArray) -> float:
    """Vertices (T,V,3) in m -> mean error over vertices and frames, m. Lower is better.

    Locked by test_vertex_errors.
    """
    return float(_check(ours, truth).mean())


def face_dynamics_deviation(ours: NDArray, truth: NDArray, neutral: NDArray) -> float:
    """Upper-face vertices (T,V,3) and their rest (V,3) or both sides' rests (2,V,3) in m -> m.

    dyn(v) = standard deviation over time of |v_t - rest|; FDD = mean over v of dyn(truth) - dyn(ours): 0 is best,
    positive means too still. Locked by test_vertex_errors.
    """
    _check(ours, truth)
    rest = np.broadcast_to(neutral, (2, *truth.shape[1:])) if neutral.ndim == 2 else neutral

    def dynamics(x: NDArray, base: NDArray) -> NDArray:
        return np.linalg.norm(np.asarray(x, np.float64) - base, axis=-1).std(0)

    return float((dynamics(truth, rest[1]) - dynamics(ours, rest[0])).mean())
