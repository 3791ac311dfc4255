"""The window on the mouth: what it cuts and what it says of cameras and points must agree."""

import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.geometry.camera import look_at
from avatar_core.io.store import Store
from avatar_core.perception.crop import Window, read_window, whole_window, write_windows
from avatar_core.perception.mouth import window_round_mouth
from avatar_core.template.landmarks import KEYPOINTS, indices


def keypoints(mouth: np.ndarray, eyes_above: float) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (n,K,2) of a face whose mouth is at `mouth` (n,2), eyes so many pixels above."""
    xy = np.repeat(mouth[:, None], len(KEYPOINTS), 1).astype(np.float64)
    xy[:, indices("eyelids"), 1] -= eyes_above
    return xy, np.ones((len(mouth), len(KEYPOINTS)))


def test_window_follows_the_mouth():
    at = np.arange(0, 41, 4)
    mouth = np.stack([100 + 0.5 * at, np.full(len(at), 120.0)], 1)
    window = window_round_mouth(*keypoints(mouth, 40.0), at, 41)
    assert window.side == pytest.approx(52) and window.corner.shape == (41, 2)
    inside = window.points(np.array([[[100 + 0.5 * t, 120.0]] for t in range(41)]), 32)
    assert np.allclose(inside[10:30, 0], [16, 0.45 * 32], atol=0.2)


def test_frames_without_a_mouth_are_bridged_and_none_at_all_is_an_error():
    at = np.arange(0, 41, 4)
    xy, confidence = keypoints(np.full((len(at), 2), 64.0), 30.0)
    xy[3], confidence[3] = 0.0, 0.0
    assert np.ptp(window_round_mouth(xy, confidence, at, 41).corner) < 10
    with pytest.raises(UserError, match="no mouth"):
        window_round_mouth(xy, confidence * 0, at, 41)


def test_cut_points_and_intrinsics_agree():
    camera = look_at((0, -3, 1), (0.05, 0, 1.1), 20.0, 128, 128)
    point = np.array([[0.02, 0.0, 1.06]])
    pixel, _ = camera.project(point)
    frames = np.zeros((2, 128, 128, 3), np.uint8)
    for frame in frames:
        column, row = np.floor(pixel[0]).astype(int)
        frame[row - 4 : row + 5, column - 4 : column + 5] = 255
    window = Window(np.array([[30.3, 20.7], [33.0, 24.0]]), 64.0)
    shown = window.cut(frames, 32)[..., 0].astype(float)
    Ks = window.intrinsics(camera.K, 32)
    for t in range(2):
        rows, columns = np.mgrid[:32, :32] + 0.5
        centre = np.array([(columns * shown[t]).sum(), (rows * shown[t]).sum()]) / shown[t].sum()
        assert np.allclose(window.points(pixel[None], 32)[t, 0], centre, atol=0.4)
        moved = type(camera)(camera.viewmat, Ks[t], 32, 32).project(point)[0]
        assert np.allclose(moved, window.points(pixel[None], 32)[t], atol=1e-3)
    assert np.array_equal(whole_window(frames.shape[:3]).cut(frames, 128), frames)


def test_what_was_cut_is_set_in_where_it_was():
    rows, columns = np.mgrid[:96, :96]
    picture = np.stack([128 + 60 * np.sin(rows / 9), 128 + 60 * np.cos(columns / 7), 0 * rows + 128], -1)
    frames = np.stack([picture, picture[:, ::-1]]).astype(np.uint8)
    window = Window(np.array([[20.25, 31.5], [25.0, 30.0]]), 40.0)
    again = window.paste(np.zeros_like(frames), window.cut(frames, 32), 0.2)
    for t, (x, y) in enumerate(np.round(window.corner).astype(int)):
        inside = np.s_[t, y + 9 : y + 31, x + 9 : x + 31]
        assert np.abs(again[inside].astype(int) - frames[inside]).max() <= 6
        again[t, y - 1 : y + 41, x - 1 : x + 41] = 0
    assert not again.any()  # nothing beside the window
    same = window.paste(frames, window.cut(frames, 32), 0.2)
    assert np.abs(same.astype(int) - frames).max() <= 6


def test_windows_survive_storing_to_the_last_bit(tmp_path):
    windows = {
        f"clip-{n}": Window(np.random.default_rng(n).normal(50, 20, (n, 2)), 50 / 3 + n) for n in (5, 9)
    }
    write_windows(tmp_path / "windows.zarr", windows)
    store = Store(tmp_path / "windows.zarr")
    for clip, window in windows.items():
        again = read_window(store, clip)
        assert np.array_equal(again.corner, window.corner) and again.corner.dtype == window.corner.dtype
        assert again.side == window.side
    assert len(store.files) == 3  # however many clips: a file is what DVC and object stores count
    with pytest.raises(
        UserError, match="windows.zarr: expected a window of clip 'nobody', found those of 2 others"
    ):
        read_window(store, "nobody")
