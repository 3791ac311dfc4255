"""What makes the procedural world open: secondary motion, cameras, rooms, grain, and masks that are found, not given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from avatar_core.clock import FPS
from avatar_core.perception.backends import clip_masks
from avatar_core.perception.matte import MatteMasks
from avatar_core.procedural.people import (
    Person,
    Shot,
    framing_camera,
    neutral_face,
    relaxed_pose,
    sample_identities,
    sample_shot,
)
from avatar_core.procedural.people.regions import regions
from avatar_core.procedural.people.rooms import PLAIN, sample_room, with_grain
from avatar_core.procedural.people.secondary import base_points, damped, late_frames
from avatar_core.procedural.performance import BONE_INDEX


@pytest.fixture(scope="module")
def person():
    long_haired = next(p for p in sample_identities(12, 7, "world") if p.attributes["hair_style"] == "long")
    return Person.build(long_haired)


def nod(degrees=12.0, frames=12):
    """(T, 104, 3) of a head that turns by that much within 3 frames and stays."""
    pose = np.repeat(relaxed_pose()[None], frames, 0)
    pose[3:, BONE_INDEX["head"], 2] += np.radians(degrees)
    return pose


def lates(person, pose, stick=0.0, closed=(), breath=None):
    still = np.zeros((len(pose), 3))
    breath = np.zeros(len(pose)) if breath is None else breath
    return person.late_frames(pose, still, breath, np.array(closed), stick)


def test_a_spring_follows_late_swings_past_and_comes_to_rest():
    step = np.concatenate([np.zeros(4), np.ones(150)])[:, None]
    y = damped(step, hertz=1.5, damping=0.2)[:, 0]
    assert (y[:4] == 0).all() and 0 < y[5] < 0.5
    overshoot = np.exp(-np.pi * 0.2 / np.sqrt(1 - 0.04))  # of a second-order system
    assert y.max() - 1 == pytest.approx(overshoot, abs=0.05)
    peak = 4 + FPS / (2 * 1.5 * np.sqrt(1 - 0.04))  # half a period after the step
    assert y.argmax() == pytest.approx(peak, abs=1.5)
    assert abs(y[-1] - 1) < 0.01
    moving = np.arange(200.0)[:, None] / FPS
    assert (moving - damped(moving, 1.5, 0.2))[-1] == pytest.approx(2 * 0.2 / (2 * np.pi * 1.5), rel=0.1)


def test_hair_swings_after_the_head_and_the_rest_of_the_head_does_not(person):
    pose = nod()
    camera = framing_camera(person.vertices(None, relaxed_pose()), "face", 96)
    late = lates(person, pose)
    rigid, _ = person.render(neutral_face(), pose[4], None, camera)
    swung, _ = person.render(neutral_face(), pose[4], None, camera, late=late[4])
    moved = np.abs(rigid.astype(int) - swung).max(-1) > 12
    assert moved.mean() > 0.01
    before, _ = person.render(neutral_face(), pose[0], None, camera, late=late[0])
    still, _ = person.render(neutral_face(), pose[0], None, camera)
    np.testing.assert_array_equal(before, still)  # nothing had moved yet
    shown = person.vertices(None, pose[4], None, late[4]) - person.vertices(None, pose[4], None)
    skull = base_points().soft == 0
    assert np.abs(shown[skull]).max() < 1e-6 and np.abs(shown).max() > 5e-4  # cheeks give


def test_corners_of_lips_part_after_their_middle(person):
    pose = np.repeat(relaxed_pose()[None], 4, 0)
    jaw = np.zeros(52, np.float32)
    jaw[24] = 0.4  # jawOpen
    stuck = lates(person, pose, stick=0.9, closed=[1.4 / FPS])[1]
    rest, free, held = (
        person.vertices(face, pose[1], None, late) for face, late in ((None, None), (jaw, None), (jaw, stuck))
    )
    corner = base_points().corner
    share = np.linalg.norm(held - rest, axis=1) / np.maximum(np.linalg.norm(free - rest, axis=1), 1e-9)
    opened = np.linalg.norm(free - rest, axis=1) > 1e-3
    assert share[opened & (corner > 0.8)].mean() < 0.5
    assert share[opened & (corner < 0.01)].mean() == pytest.approx(1, abs=0.02)


def test_breath_lifts_the_chest(person):
    pose = np.repeat(relaxed_pose()[None], 2, 0)
    inhaled, exhaled = lates(person, pose, breath=np.array([1.0, -1.0]))
    moved = person.vertices(None, pose[0], None, inhaled) - person.vertices(None, pose[0], None, exhaled)
    assert 0.004 < -moved[:, 1].min() < 0.012
    head = regions().head > 0.9
    assert np.abs(moved[head]).max() < 1e-3


def test_late_frames_are_the_same_again(person):
    one, two = lates(person, nod()), lates(person, nod())
    assert all(np.array_equal(a.hair, b.hair) and np.array_equal(a.soft, b.soft) for a, b in zip(one, two))
    assert late_frames(np.zeros((1, 3, 3, 4)), np.zeros(1), np.zeros(0), 1.0)[0].stick == 0


def test_shots_differ_and_all_show_the_person(person):
    vertices = person.vertices(None, relaxed_pose())
    level = framing_camera(vertices, "waist_up", 128)
    head = vertices[regions().head > 0.9]
    seen = []
    for seed in range(20):
        camera = framing_camera(vertices, "waist_up", 128, sample_shot(np.random.default_rng(seed)))
        xy, depth = camera.project(head)
        assert (xy > 0).all() and (xy < 128).all()
        seen.append((float(depth.mean()), -float(camera.viewmat[2, 2]), float(camera.viewmat[0, 2])))
    assert (np.std(seen, axis=0) > [0.4, 0.03, 0.01]).all()
    same = framing_camera(vertices, "waist_up", 128, Shot())
    np.testing.assert_array_equal(same.viewmat, level.viewmat)
    high = framing_camera(vertices, "waist_up", 128, replace(Shot(), pitch=6.0))
    assert high.position[2] > level.position[2] and np.degrees(
        np.arcsin(-high.viewmat[2, 2])
    ) == pytest.approx(6)


def test_rooms_differ_and_some_are_plain():
    rooms = [sample_room(np.random.default_rng(seed), 64) for seed in range(60)]
    assert abs(np.mean([r is None for r in rooms]) - PLAIN) < 0.15
    drawn = [r for r in rooms if r is not None]
    assert all(r.shape == (64, 64, 3) and r.min() >= 0 and r.max() <= 1 for r in drawn)
    assert np.std([r.mean() for r in drawn]) > 0.08 and np.mean([r.std() for r in drawn]) > 0.05


def test_grain_has_its_deviation_and_differs_from_frame_to_frame():
    film = with_grain(np.full((6, 40, 40, 3), 128, np.uint8), 2.0, np.random.default_rng(0))
    off = film.astype(float) - 128
    assert (
        off.std() == pytest.approx(2, rel=0.1)
        and abs(np.corrcoef(off[0].ravel(), off[1].ravel())[0, 1]) < 0.1
    )


@pytest.mark.parametrize("seed", [1, 4])
def test_a_person_in_a_room_is_found(person, seed):
    camera = framing_camera(person.vertices(None, relaxed_pose()), "waist_up", 192)
    room = sample_room(np.random.default_rng(seed), 192)
    assert room is not None
    picture, alpha = person.render(neutral_face(), relaxed_pose(), None, camera, background=room)
    mask, true = clip_masks(MatteMasks(), picture[None])[0] > 127, alpha > 127
    assert (mask & true).sum() / (mask | true).sum() > 0.95
