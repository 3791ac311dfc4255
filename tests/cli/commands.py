"""What the tests of the commands share: how a refusal looks, unusable files, the marks of tests that need a trained student."""

import numpy as np
import pytest
from PIL import Image

from avatar_core.io.video import read_video

WITH_STUDENT = [pytest.mark.slow]


def assert_refused(result, *words):
    """One line that names what was expected and what was found, exit code 2, no traceback."""
    code, _, err = result
    lines = err.strip().splitlines()
    assert code == 2, err
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "Traceback" not in err and "expected" in err and "found" in err
    for word in words:
        assert word in err, err


def picture(path, size=(256, 320)):
    """An image of noise; returns its path."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def seconds(path):
    return len(read_video(path, max_frames=2000)) / 25


def missing(path):
    return path


def empty(path):
    path.write_bytes(b"")


def folder(path):
    path.mkdir()
