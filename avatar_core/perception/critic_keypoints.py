"""Keypoints by the project's own nets, trained on procedural people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CriticKeypoints:
    """See `Critics.keypoints`."""

    def keypoints(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from avatar_core.perception.instruments import load_critics

        return load_critics().keypoints(images)
