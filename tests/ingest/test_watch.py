"""One look at a video: where it is cut, whose face is where, what the camera does."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from avatar_core.ingest.faces import FaceShape
from avatar_core.ingest.pieces import camera_motion
from avatar_core.ingest.sync import measure
from avatar_core.ingest.watch import Watched, watch
from tests.ingest.cartoon import WIDTH, Face, Finder, film, syllables

TALK = syllables(8)


def talker(frames, x=160.0, y=110.0, height=90.0):
    return Face(x, y, height, TALK[:frames])


def test_two_shots_are_two_and_a_gesture_is_no_cut():
    still = film(40, talker(40))
    hand = still.copy()
    for t in range(20, 26):  # a bright hand comes up quickly
        hand[t:, 180:, 300 - 30 * (t - 20) :] = 230
    other = 255 - film(40, talker(40, x=260))
    assert watch(hand, Finder()).cuts == [0]
    assert watch(np.concatenate([still, other]), Finder()).cuts == [0, 40]


def test_a_fade_is_no_cut():
    frames = film(40, talker(40))
    dark = (frames * np.linspace(1, 0.6, 40)[:, None, None, None]).astype(np.uint8)
    assert watch(dark, Finder()).cuts == [0]


def test_a_jump_of_the_face_before_one_backdrop_is_a_cut():
    jumped = np.concatenate([film(30, talker(30)), film(30, talker(30, x=240))])
    watched = watch(jumped, Finder())
    assert watched.cuts == [0, 30]
    assert [(t.start, t.stop) for t in watched.tracks] == [(0, 30), (30, 60)]


def test_tracks_give_place_and_opening():
    watched = watch(film(60, talker(60)), Finder())
    (track,) = watched.tracks
    assert track.column("x") == pytest.approx(160, abs=1.5)
    assert track.column("height") == pytest.approx(90, abs=3)
    assert np.corrcoef(track.column("lips"), TALK[:60])[0, 1] > 0.95


def test_the_cameras_motion_is_that_of_the_backdrop_and_not_of_the_person():
    sways = talker(50, x=160 + 15 * np.sin(np.arange(50) / 8))
    still = watch(film(50, sways), Finder())
    assert camera_motion(still, 0, 50) < 0.003
    panned = watch(film(50, talker(50), pan=1.0), Finder())
    assert camera_motion(panned, 0, 50) == pytest.approx(48 / 260, rel=0.15)
    assert camera_motion(panned, 0, 13) < 0.6 * camera_motion(panned, 0, 50)
    plain = film(50, talker(50))
    plain[:, :, :] = np.where((plain == plain[..., :1]).all(-1, keepdims=True), 128, plain)
    assert camera_motion(watch(plain, Finder()), 0, 50) is None


def test_a_zoom_is_a_motion_of_the_camera():
    frames = film(50, talker(50))
    size = frames.shape[2], frames.shape[1]
    zoomed = np.stack(
        [
            cv2.warpAffine(f, np.array([[1 + t / 500, 0, 0], [0, 1 + t / 500, 0]]), size)
            for t, f in enumerate(frames)
        ]
    )
    assert camera_motion(watch(zoomed, Finder()), 0, 50) > 0.05


def test_what_was_watched_comes_back_from_its_arrays():
    watched = watch(film(30, talker(30), talker(30, x=320, height=60)), Finder())
    again = Watched.from_arrays(watched.arrays())
    assert (again.cuts, again.width, len(again.tracks)) == ([0], WIDTH, 2)
    np.testing.assert_array_equal(again.tracks[1].rows, watched.tracks[1].rows)
    np.testing.assert_array_equal(again.camera, watched.camera)


@pytest.mark.parametrize("late", [0, 3, 8, -8])
def test_the_lag_between_lips_and_sound_is_found(late):
    talk = syllables(14, seed=5)
    loudness = 20 * np.log10(np.roll(talk, -late) + 1e-2)
    sync = measure([(np.arange(100, 330), np.stack([talk, talk], 1)[100:330])], loudness, 4, 25)
    assert abs(sync.lag - late) <= 1
    assert sync.sure > 4


def test_another_voice_is_no_more_than_chance():
    sure = []
    for seed in range(8):
        talk, other = syllables(14, seed=seed), syllables(14, seed=seed + 50)
        sync = measure([(np.arange(350), np.stack([talk, talk], 1))], 20 * np.log10(other + 1e-2), 4, 25)
        sure.append(sync.near_sure)
    assert np.mean(np.array(sure) > 2.5) <= 1 / 8


@pytest.mark.parametrize(("axis", "name"), [((0, 2), "yaw"), ((1, 2), "pitch"), ((0, 1), "roll")])
@pytest.mark.parametrize("degrees", [-50, 20, 85])
def test_turns_of_a_head_are_told_apart(axis, name, degrees):
    mesh = Finder().find(film(1, talker(1, x=200, y=130))[0])[0]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.eye(3)
    rotation[np.ix_(axis, axis)] = [[c, -s], [s, c]]
    middle = mesh.mean(0)
    turned = FaceShape.of((mesh - middle) @ rotation.T + middle, film(1)[0])
    others = {"yaw", "pitch", "roll"} - {name}
    assert getattr(turned, name) == pytest.approx(degrees, abs=0.5)
    assert all(abs(getattr(turned, other)) < 0.5 for other in others)
    assert turned.height == pytest.approx(FaceShape.of(mesh, film(1)[0]).height)


def test_too_little_to_compare_says_so():
    assert measure([(np.arange(20), np.zeros((20, 2)))], np.zeros(100), 4, 25) is None
