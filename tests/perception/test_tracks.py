import numpy as np

from avatar_core.perception.tracks import bind_tracks


def test_tracks_bind_to_the_near_side_and_keep_their_offset():
    pixels = np.zeros((3, 3, 2))
    pixels[:, 0], pixels[:, 1], pixels[:, 2] = (10, 10), (10.5, 10), (50, 50)
    depth = np.tile([1.0, 1.5, 1.0], (3, 1))  # particle 1 is behind particle 0
    tracks = np.full((3, 3, 2), np.nan)
    tracks[:, 0] = [[10.6, 10], [11.6, 10], [12.6, 10]]
    tracks[1:, 1] = [[51, 50], [52, 50]]  # appears in the second frame
    tracks[:, 2] = 90.0  # on nobody
    binding = bind_tracks(tracks, pixels, depth)
    assert binding.particles.tolist() == [0, 2]
    assert np.allclose(binding.targets[:, 0], [[10, 10], [11, 10], [12, 10]])
    assert np.isnan(binding.targets[0, 1]).all() and np.allclose(binding.targets[1:, 1], [[50, 50], [51, 50]])


def test_no_tracks_bind_to_nothing():
    binding = bind_tracks(np.full((3, 1, 2), np.nan), np.zeros((3, 1, 2)), np.ones((3, 1)))
    assert binding.particles.shape == (0,) and binding.targets.shape == (3, 0, 2)
