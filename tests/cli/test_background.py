"""What stands behind is refused in one line where it cannot be."""

import pytest

from tests.cli.commands import assert_refused, picture


@pytest.mark.parametrize(
    ("background", "out", "words"),
    [
        ("beech", "out.mp4", ["--background", "beech", "an image file"]),
        ("missing.png", "out.mp4", ["--background", "missing.png"]),
        ("alpha", "out.mp4", ["out.mp4", ".webm or .mov"]),
        ("keep", "out.webm", ["out.webm", ".mp4"]),
    ],
)
def test_unusable_backgrounds(avatar, tmp_path, background, out, words):
    portrait = picture(tmp_path / "p.png")
    result = avatar(
        "speak", "--portrait", portrait, "--text", "Hello", "--background", background, "--out", out
    )
    assert_refused(result, *words)
    assert not (tmp_path / out).exists()


def test_an_image_that_is_damaged_is_named(avatar, tmp_path):
    (tmp_path / "room.jpg").write_bytes(b"not a picture")
    portrait = picture(tmp_path / "p.png")
    room = str(tmp_path / "room.jpg")
    result = avatar(
        "speak", "--portrait", portrait, "--text", "Hello", "--background", room, "--out", "out.mp4"
    )
    assert_refused(result, "room.jpg")
