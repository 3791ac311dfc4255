"""dlib's descriptor on procedural people and on a photograph."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from avatar_core.perception.face_identity import CORNERS, PADDING, PLACES, SIZE, describe, face_chip, likeness
from avatar_core.perception.holistic.people import find_people
from avatar_core.procedural.people import Person, framing_camera, sample_identities

torch.set_num_threads(1)


@functools.cache
def descriptors() -> np.ndarray:
    """Two people, two views each -> (2,2,128)."""
    out = []
    for identity in sample_identities(2, 5, "face-identity-test"):
        person = Person.build(identity)
        for size in (224, 320):
            camera = framing_camera(person.vertices(), "face", size)
            smile = np.zeros(52, np.float32)
            smile[10:14] = 0.2 if size == 320 else 0.0
            picture, _ = person.render(smile, None, None, camera)
            out.append(describe(face_chip(picture, find_people(picture)[0].face)[None])[0])
    return np.array(out).reshape(2, 2, 128)


def test_one_person_is_nearer_than_another():
    one, other = descriptors()
    same = likeness(one[0], one[1:])[0]
    assert same > 0.6
    assert same > likeness(one[0], other).max() + 0.05
    assert likeness(one[0], one[:1])[0] == pytest.approx(1.0)


def test_a_chip_puts_the_corners_of_the_eyes_where_dlib_has_them():
    rng = np.random.default_rng(0)
    mesh = rng.uniform(0, 300, (478, 2))
    target = (PADDING + PLACES) / (2 * PADDING + 1) * SIZE
    turn = np.array([[0.8, -0.6], [0.6, 0.8]]) * 0.7
    mesh[CORNERS] = target @ turn.T + [90, 60]
    image = np.zeros((300, 300, 3), np.uint8)
    x, y = np.floor(mesh[CORNERS[0]]).astype(int)
    image[y - 1 : y + 2, x - 1 : x + 2] = 255
    ys, xs = np.nonzero(face_chip(image, mesh)[..., 0] > 100)
    assert [xs.mean() + 0.5, ys.mean() + 0.5] == pytest.approx(target[0].tolist(), abs=1.5)


def test_far_descriptors_have_no_likeness():
    far = np.full((1, 128), 1.0)
    assert likeness(np.zeros(128), far)[0] == 0.0
