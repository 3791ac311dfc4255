"""What stands behind a speaking avatar, and videos that are transparent."""

import subprocess

import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.io.ffmpeg import executable
from avatar_core.io.images import write_png
from avatar_core.io.video import VideoWriter
from avatar_core.particles.background import Background, Room
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.canonical import load_canonical, save_canonical
from avatar_core.particles.layout import make_layout
from avatar_core.speak.behind import read_background
from tests.fit.clip_scene import make_canonical


@pytest.fixture(scope="module")
def canonical():
    return make_canonical(
        make_layout(
            ParticleBudgets(**{"face": 300, "hand": 80, "eyes": 40, "mouth_interior": 40, "body": 400})
        )
    )


def test_a_room_fills_pictures_of_any_shape_about_its_middle():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 200
    room = Room(pixels)
    assert room.image(160, 80).shape == (80, 160, 3)
    np.testing.assert_allclose(room.image(160, 80)[40, 80], 200 / 255, atol=1e-3)
    assert room.image(40, 40).min() > 0.75  # the middle 40 columns
    np.testing.assert_allclose(room.image(80, 40), pixels / np.float32(255), atol=1e-6)


def test_an_avatars_room_is_kept_in_its_file(canonical, tmp_path):
    from dataclasses import replace

    room = Room(np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8))
    save_canonical(tmp_path / "a.safetensors", replace(canonical, background=room))
    again = load_canonical(tmp_path / "a.safetensors").background
    assert isinstance(again, Room)
    np.testing.assert_array_equal(again.pixels, room.pixels)
    save_canonical(tmp_path / "b.safetensors", canonical)
    assert isinstance(load_canonical(tmp_path / "b.safetensors").background, Background)


def test_backgrounds_by_name(canonical, tmp_path):
    assert read_background("keep").before(canonical) is canonical
    assert read_background("alpha").transparent and not read_background("keep").transparent
    red = read_background("#ff0000").before(canonical).background.image(4, 4)
    np.testing.assert_allclose(red, np.broadcast_to([1, 0, 0], (4, 4, 3)), atol=1e-6)
    assert read_background("white").before(canonical).background.image(2, 2).min() == 1
    plain = read_background("plain").before(canonical).background.image(3, 3)
    assert np.ptp(plain.reshape(-1, 3), axis=0).max() == 0
    np.testing.assert_allclose(plain[0, 0], canonical.background.image(3, 3)[1, 1], atol=0.05)
    picture = np.random.default_rng(1).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    write_png(tmp_path / "beach.png", picture)
    given = read_background(str(tmp_path / "beach.png")).before(canonical).background
    np.testing.assert_allclose(given.image(80, 64), picture / 255, atol=1e-3)
    for wrong in ("beech", "#12", str(tmp_path / "none.png"), ""):
        with pytest.raises(UserError, match="--background: expected keep, plain, alpha, a colour"):
            read_background(wrong)


@pytest.mark.parametrize(("suffix", "decoder"), [(".webm", ["-c:v", "libvpx-vp9"]), (".mov", [])])
def test_transparent_videos_keep_their_alpha(suffix, decoder, tmp_path):
    frames = np.zeros((4, 64, 64, 4), np.uint8)
    frames[..., :3] = [220, 60, 0]
    frames[:, 16:48, 16:48, 3] = 255
    frames[:, 32:48, 16:48, 3] = 128
    path = tmp_path / f"a{suffix}"
    with VideoWriter(path, 64, 64, audio=np.zeros(2560, np.float32), transparent=True) as writer:
        writer.write(frames)
    command = [
        executable(),
        "-v",
        "error",
        *decoder,
        "-i",
        str(path),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgba",
        "-",
    ]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    again = np.frombuffer(raw, np.uint8).reshape(-1, 64, 64, 4)
    assert len(again) == 4
    for row, column in ((24, 32), (40, 32), (4, 4)):
        np.testing.assert_allclose(again[2, row, column].astype(int), frames[2, row, column], atol=4)


def test_a_transparent_video_needs_a_container_that_can(tmp_path):
    with pytest.raises(UserError, match=r"expected a name ending in \.webm or \.mov"):
        VideoWriter(tmp_path / "a.mp4", 64, 64, transparent=True)
