"""Portraits that cannot be used: one line that names the file, exit code 2, nothing half-written."""

import pytest
from PIL import Image

from tests.cli.commands import WITH_STUDENT, assert_refused, empty, folder, missing, picture


def not_an_image(path):
    path.write_text("I am a letter, not a picture.")


def truncated_image(path):
    picture(path)
    path.write_bytes(path.read_bytes()[:4000])


def one_pixel(path):
    Image.new("RGB", (1, 1)).save(path)


def too_wide(path):
    Image.new("L", (20_000, 300)).save(path)


def transparent(path):
    Image.new("RGBA", (300, 300), (0, 0, 0, 0)).save(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, ["no such file"]),
        (not_an_image, ["expected an image"]),
        (empty, ["expected an image"]),
        (truncated_image, ["truncated"]),
        (one_pixel, ["1 x 1 px"]),
        (too_wide, ["20000 x 300 px"]),
        (transparent, ["fully transparent"]),
        (folder, ["a folder"]),
    ],
)
@pytest.mark.parametrize("command", ["speak", "personalise", "export"])
def test_unusable_portrait(avatar, tmp_path, tone, make, words, command):
    portrait = tmp_path / "portrait.png"
    make(portrait)
    out = tmp_path / {"speak": "out.mp4", "personalise": "out", "export": "out.ply"}[command]
    sound = ["--audio", tone] if command == "speak" else []
    assert_refused(avatar(command, "--portrait", portrait, "--out", out, *sound), str(portrait), *words)
    assert not out.exists()


class TestWithStudent:
    pytestmark = WITH_STUDENT

    def test_no_person_in_the_portrait(self, avatar, tmp_path, tone, model):
        wall, out = tmp_path / "wall.png", tmp_path / "out.mp4"
        Image.new("RGB", (512, 640), (128, 140, 150)).save(wall)
        code, _, err = avatar("speak", "--portrait", wall, "--audio", tone, "--model", model, "--out", out)
        assert code == 2 and "Traceback" not in err and not out.exists()
        last = err.strip().splitlines()[-1]
        assert last.startswith(f"error: {wall}: ") and "expected" in last and "found" in last
