"""Particles keep to the person: what would show beside the portrait's matte is drawn in, or not shown.

Legend: N particles, H W pixels of the portrait.
"""

from __future__ import annotations

import cv2
import numpy as np

from avatar_core.geometry.camera import Camera

GONE = -6.0  # logit opacity of a particle that is not shown
INSIDE = 0.5  # alpha of pixels that are the person's
NEAR_M = 0.02  # how far a particle may be drawn in: what a fitted template is off by


def draw_in(means: np.ndarray, camera: Camera, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Particles (N,3) before camera, those a little beside the matte (H,W) moved onto it; which are too far from it (N,) bool.

    Outside the picture nothing is known, and nothing moves.
    """
    xy, depth = camera.project(means)
    column, row = np.floor(xy[:, 0]).astype(int), np.floor(xy[:, 1]).astype(int)
    framed = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height) & (depth > 0)
    person = alpha > INSIDE
    lost = np.zeros(len(means), bool)
    if not person.any():
        return means, lost
    distance, label = cv2.distanceTransformWithLabels(
        (~person).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label = np.asarray(label, np.int64)
    place = np.zeros((int(label.max()) + 1, 2))
    rows, columns = np.nonzero(person)
    place[label[rows, columns]] = np.stack([columns, rows], 1) + 0.5
    beside = np.flatnonzero(framed)
    beside = beside[~person[row[beside], column[beside]]]
    metres = distance[row[beside], column[beside]] * depth[beside] / camera.K[0, 0]
    near = metres < NEAR_M
    moved = means.copy()
    at = beside[near]
    moved[at] = camera.unproject(place[label[row[at], column[at]]], depth[at])
    lost[beside[~near]] = True
    return moved, lost
