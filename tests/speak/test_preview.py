"""The preview reports what was found: points on the photo, cut-out, room, avatar, numbers."""

import numpy as np
from PIL import Image

from avatar_core.particles.background import Room
from avatar_core.perception.foreground import Matte
from avatar_core.personalise.personalise import PortraitFit
from avatar_core.speak.preview import FACE, LEFT, cut_out, draw_points, write_preview
from avatar_core.template.landmarks import KEYPOINT_INDEX, KEYPOINTS

SIZE = 96


def _fit() -> PortraitFit:
    alpha = np.zeros((SIZE, SIZE), np.float32)
    alpha[30:, 30:70] = 1
    portrait = np.full((SIZE, SIZE, 3), 0.5, np.float32)
    colors = np.full((SIZE, SIZE, 3), [0.9, 0.1, 0.1], np.float32)
    xy, confidence = np.zeros((len(KEYPOINTS), 2)), np.zeros(len(KEYPOINTS))
    for name, place in {"shoulder.L": (70, 50), "elbow.L": (70, 80), "nose.tip": (50, 20)}.items():
        xy[KEYPOINT_INDEX[name]], confidence[KEYPOINT_INDEX[name]] = place, 0.9
    room = Room(np.full((SIZE, SIZE, 3), 30, np.uint8))
    matte = Matte(alpha, alpha > 0.5, alpha > 0.5, colors, portrait, room)
    return PortraitFit(portrait, 41.0, 42.0, 0.001, 1.2, portrait, xy, confidence, matte, 1)


def test_trusted_points_are_drawn_where_they_are():
    drawn = draw_points(_fit())
    assert np.abs(drawn[65, 70].astype(int) - LEFT).max() < 16 and tuple(drawn[20, 50]) == FACE
    assert (drawn[0, 0] == 128).all()  # what is not trusted lies at 0, 0


def test_the_cut_out_shows_the_person_alone():
    out = cut_out(_fit())
    np.testing.assert_allclose(out[60, 50], [0.9, 0.1, 0.1], atol=1e-6)
    assert set(np.round(out[:30].reshape(-1), 3)) == {0.55, 0.75}


def test_the_preview_holds_all_its_pictures(tmp_path):
    write_preview(tmp_path / "preview.png", _fit(), np.full((SIZE, SIZE, 3), 0.3))
    sheet = np.asarray(Image.open(tmp_path / "preview.png"))
    assert sheet.shape[1] > 3 * 448 and sheet.shape[0] > 2 * 448
    found = {tuple(c) for c in sheet.reshape(-1, 3)}
    assert (30, 30, 30) in found and len(found) > 10
