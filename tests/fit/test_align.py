"""The coarse alignment of a person to a clip: what its pieces promise."""

from __future__ import annotations

import numpy as np
import torch

from avatar_core.fit.align import chosen_frames, shrunk, spread_matrix
from avatar_core.geometry.camera import Camera


def test_spread_keeps_a_common_displacement_whatever_the_density():
    places = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) ** 3
    spread = spread_matrix(places, 0.1)
    assert torch.allclose(spread @ torch.full((200, 1), 7.0), torch.full((200, 1), 7.0), atol=1e-4)


def test_chosen_frames_are_distinct_and_inside():
    for frames in (1, 3, 5, 71):
        chosen = chosen_frames(frames, 5)
        assert len(set(chosen.tolist())) == min(5, frames)
        assert int(chosen.min()) >= 0 and int(chosen.max()) < frames


def test_a_smaller_picture_shows_the_same():
    viewmat = np.eye(4, dtype=np.float32)
    K = np.array([[500, 0, 128], [0, 500, 128], [0, 0, 1]], np.float32)
    camera = Camera(viewmat, K, 256, 256)
    point = np.array([[0.1, -0.2, 3.0]], np.float32)
    small = shrunk(camera, 8)
    assert (small.width, small.height) == (32, 32)
    assert np.allclose(small.project(point)[0] * 8, camera.project(point)[0], atol=1e-4)
