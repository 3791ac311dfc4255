"""Soft mattes: a procedural person, whose alpha is known, before a busy wall."""

from functools import lru_cache

import cv2
import numpy as np
import pytest

from avatar_core.particles.background import Background, Room
from avatar_core.perception.foreground import hard_matte, separate
from avatar_core.perception.holistic import people
from avatar_core.perception.matte import MatteMasks
from avatar_core.perception.matte_alpha import solve_alpha
from avatar_core.perception.matte_colors import separate_colors
from avatar_core.perception.matte_others import others_of, without_others
from avatar_core.perception.matte_person import own_part, without_holes
from avatar_core.perception.matte_room import fill_room, strands
from avatar_core.perception.matte_table import without_table
from avatar_core.procedural.people import (
    Person,
    framing_camera,
    neutral_face,
    relaxed_pose,
    sample_identities,
)
from avatar_core.template.landmarks import (
    HAND_JOINTS,
    KEYPOINT_INDEX,
    KEYPOINTS,
    indices,
    keypoints_from_vertices,
)

SIZE = 320


def busy_wall(size: int) -> np.ndarray:
    """(size,size,3): bricks, a poster and a lamp."""
    rng = np.random.default_rng(3)
    wall = np.full((size, size, 3), [0.55, 0.35, 0.28], np.float32)
    for row in range(0, size, 20):
        for column in range(-20, size, 40):
            x = column + 20 * (row // 20 % 2)
            cv2.rectangle(
                wall, (x + 1, row + 1), (x + 38, row + 18), (rng.uniform(0.2, 0.75, 3)).tolist(), -1
            )
    cv2.rectangle(wall, (size - 70, 30), (size - 10, 130), (0.1, 0.5, 0.2), -1)
    cv2.circle(wall, (40, 60), 25, (1.0, 0.95, 0.7), -1)
    return np.clip(wall + rng.normal(0, 0.02, wall.shape), 0, 1).astype(np.float32)


@lru_cache(maxsize=1)
def scene():
    """image (H,W,3), true alpha (H,W), wall (H,W,3), keypoints (K,2), confidence (K,)."""
    person = Person.build(sample_identities(4, 3, "tests")[1])
    pose = relaxed_pose()
    vertices = person.vertices(None, pose, None)
    camera = framing_camera(vertices, "portrait", SIZE)
    wall = busy_wall(SIZE)
    rgb, alpha = person.render(neutral_face(), pose, None, camera, background=wall)
    xy, _ = camera.project(keypoints_from_vertices(vertices, person.joints(pose)))
    inside = np.asarray(((xy > 0) & (xy < SIZE)).all(1))
    return (
        rgb.astype(np.float32) / 255,
        alpha.astype(np.float32) / 255,
        wall,
        xy,
        np.asarray(inside, np.float32),
    )


@lru_cache(maxsize=1)
def matte():
    image, _, _, xy, confidence = scene()
    return MatteMasks().matte(image, xy, confidence)


def test_alpha_before_a_busy_wall_is_the_persons():
    truth, found = scene()[1], matte().alpha
    both = ((truth > 0.5) & (found > 0.5)).sum() / ((truth > 0.5) | (found > 0.5)).sum()
    assert both > 0.96
    assert np.abs(truth - found).sum() / truth.sum() < 0.04
    assert isinstance(matte().background, Room)


def test_the_outline_has_the_persons_colours_and_not_the_walls():
    image, truth, wall, *_ = scene()
    rim = (truth > 0.3) & (truth < 0.9) & (matte().alpha > 0.2)
    person = (image - (1 - truth[..., None]) * wall) / np.maximum(truth[..., None], 1e-3)
    error = np.abs(matte().colors - person).mean(-1)[rim].mean()
    assert rim.sum() > 200
    assert error < 0.7 * np.abs(image - person).mean(-1)[rim].mean()


def test_the_room_has_nothing_of_the_person():
    image, truth, wall, *_ = scene()
    room = matte().background.image(SIZE, SIZE)
    far = cv2.dilate((truth > 0.01).astype(np.uint8), np.ones((25, 25), np.uint8)) == 0
    assert np.abs(room - wall)[far].max() < 0.02  # what was seen stays
    hidden = truth > 0.99
    assert np.abs(room - wall)[hidden].mean() < 0.75 * np.abs(image - wall)[hidden].mean()
    # An outline of the person would show as an edge along the matte's border.
    rim = cv2.morphologyEx((truth > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    slope = lambda a: np.abs(cv2.Laplacian(a, cv2.CV_32F)).mean(-1)[rim].mean()  # noqa: E731
    assert slope(room) < 0.3 * slope(image)


def test_the_portrait_is_the_person_before_the_room():
    image, *_ = scene()
    assert np.abs(matte().picture - image).mean() < 0.01


def test_a_smooth_backdrop_is_cut_out_exactly_as_a_mask():
    image, truth, wall, xy, confidence = scene()
    backdrop = np.full_like(image, [0.6, 0.65, 0.7])
    person = image - (1 - truth[..., None]) * wall
    plain = (person + (1 - truth[..., None]) * backdrop).astype(np.float32)
    found = MatteMasks().matte(plain, xy, confidence)
    assert isinstance(found.background, Background) and found.picture is found.colors
    again = hard_matte(plain, *separate(plain))
    np.testing.assert_array_equal(found.alpha, again.alpha)
    assert ((truth > 0.5) == found.core).mean() > 0.98


def test_other_people_do_not_belong_to_the_person():
    xy = np.array([[30.0, 30], [32, 34], [28, 36]])
    probability = np.zeros((80, 160), np.float32)
    probability[20:60, 20:50] = 0.9
    probability[20:60, 90:130] = 0.95
    own = own_part(probability, xy, np.ones(3))
    assert own[40, 30] > 0.8 and not own[:, 80:].any()


def test_people_who_touch_are_parted_where_the_picture_has_an_edge():
    image = np.full((100, 200, 3), 90, np.uint8)
    image[30:, 20:95] = [200, 60, 60]
    image[30:, 95:180] = [60, 60, 200]
    probability = np.where(image.max(-1) > 100, 0.95, 0.0).astype(np.float32)
    pose = np.zeros((33, 2))
    pose[[11, 12, 23, 24]] = [[160, 50], [120, 50], [160, 95], [120, 95]]
    seen = np.isin(np.arange(33), [11, 12, 23, 24]).astype(float)
    box = np.array([130.0, 32, 150, 48])
    other = people.Person(np.zeros((478, 3)), 1.0, pose, seen, np.zeros((33, 3)), {}, {}, box)
    xy, confidence = np.zeros((len(KEYPOINTS), 2)), np.zeros(len(KEYPOINTS))
    for name, place in {
        "shoulder.L": (75, 50),
        "shoulder.R": (35, 50),
        "hip.L": (75, 95),
        "hip.R": (35, 95),
    }.items():
        xy[KEYPOINT_INDEX[name]], confidence[KEYPOINT_INDEX[name]] = place, 1
    head = np.array([45.0, 32, 65, 48])
    assert others_of([other], box) == [] and len(others_of([other], head)) == 1
    own = without_others(probability, image, xy, confidence, head, [other])
    assert own[35:99, 20:91].mean() > 0.93 and own[35:99, 99:].max() == 0
    assert without_others(probability, image, xy, confidence, head, []) is probability


def at_a_table(below: list[int], room: list[int]):
    """A person in blue whose forearms lie across the picture's lower part, above something coloured `below`, in a room; the
    network takes the middle of that for the person's. -> `without_table`'s arguments."""
    image = np.full((120, 160, 3), 170, np.uint8)
    image[80:] = room
    image[30:80, 50:110] = [60, 70, 190]
    image[10:30, 70:90] = [220, 170, 140]
    image[70:82, 40:120] = [60, 70, 190]
    image[82:, 40:120] = below
    hands = {"L": slice(84, 96), "R": slice(64, 76)}
    for columns in hands.values():
        image[70:82, columns] = [220, 170, 140]
    probability = np.zeros(image.shape[:2], np.float32)
    probability[10:30, 70:90] = probability[30:82, 50:110] = probability[70:82, 40:120] = 1
    probability[82:, 40:120] = 1
    xy, confidence = np.zeros((len(KEYPOINTS), 2)), np.zeros(len(KEYPOINTS))
    places = {"shoulder.L": (105, 35), "shoulder.R": (55, 35), "elbow.L": (115, 76), "elbow.R": (45, 76)}
    places |= {"wrist.L": (96, 76), "wrist.R": (64, 76), "hip.L": (95, 110), "hip.R": (65, 110)}
    for side, columns in hands.items():
        corners = [(columns.start, 71), (columns.stop, 71), (columns.stop, 80), (columns.start, 80)]
        places |= {name: corners[k % 4] for k, name in enumerate(HAND_JOINTS[side])}
    for name, place in places.items():
        xy[KEYPOINT_INDEX[name]], confidence[KEYPOINT_INDEX[name]] = place, 1
    return probability, image, xy, confidence, np.array([70.0, 10, 90, 30])


def test_a_table_under_the_hands_is_not_the_person():
    probability, image, *person = at_a_table(below=[200, 160, 110], room=[200, 160, 110])
    found = without_table(probability, image, *person)
    assert found[90:, 45:115].max() == 0
    assert found[10:30, 72:88].min() == 1 and found[71:79, 45:115].min() == 1
    without_hands = person[1].copy()
    without_hands[indices(*HAND_JOINTS["L"], *HAND_JOINTS["R"])] = 0
    assert without_table(probability, image, person[0], without_hands, person[2]) is probability


@pytest.mark.parametrize("clothes", [[60, 75, 180], [185, 150, 115]])
def test_clothes_under_the_hands_stay(clothes):
    probability, image, *person = at_a_table(below=clothes, room=[200, 160, 110])
    assert without_table(probability, image, *person)[90:, 45:115].min() == 1


def test_a_strand_that_the_matte_misses_does_not_stay_in_the_room():
    wall = np.tile(np.linspace(0.5, 0.6, 200, dtype=np.float32)[None, :, None], (200, 1, 3))
    hole = np.zeros((200, 200), bool)
    hole[60:, 70:130] = True
    head = np.array([70.0, 60, 130, 120])
    hair = wall.copy()
    hair[100:150, 140:142] = 0.2
    found = strands(hair, hole, head)
    assert found[100:150, 140:142].mean() > 0.9 and found.mean() < 0.01
    room = fill_room(hair, hole | found)
    assert (
        np.abs(room - wall)[:, 135:150].max() < 0.03 < np.abs(fill_room(hair, hole) - wall)[:, 135:150].max()
    )
    assert not strands(wall, hole, head).any()
    pattern = np.where(np.indices((200, 200)).sum(0) // 12 % 2, 0.3, 0.7)[..., None].astype(
        np.float32
    ) * np.ones(3)
    assert strands(pattern.astype(np.float32), hole, head).mean() < 0.005  # no wall to tell hair from


def test_small_holes_are_filled_and_gaps_between_arm_and_body_stay():
    probability = np.zeros((100, 100), np.float32)
    probability[10:90, 10:90] = 1
    probability[30:33, 30:33] = 0.3  # a badge
    probability[40:60, 40:60] = 0  # a gap
    filled = without_holes(probability)
    assert filled[31, 31] == 1 and filled[50, 50] == 0


def test_alpha_is_solved_along_colours():
    """A ramp from red to blue is known at both ends; in between alpha is the share of red."""
    share = np.clip((np.arange(60) - 20) / 20, 0, 1)[None].repeat(30, 0).astype(np.float32)
    image = np.stack([share, np.zeros_like(share), 1 - share], -1)
    unknown = np.zeros(share.shape, bool)
    unknown[:, 12:48] = True
    guess = (np.arange(60) > 33).astype(np.float32)[None].repeat(30, 0)
    alpha = solve_alpha(image, guess, unknown, 1e-4)
    assert np.abs(alpha - share)[2:-2].max() < 0.06
    assert (solve_alpha(image, guess, np.zeros_like(unknown), 0.1) == guess).all()


@pytest.mark.parametrize("size", [(40, 50), (33, 7)], ids=["even", "odd"])
def test_colours_of_both_sides_explain_the_picture(size):
    height, width = size
    alpha = np.clip(np.linspace(-0.5, 1.5, width), 0, 1)[None].repeat(height, 0).astype(np.float32)
    red, green = np.array([0.9, 0.1, 0.1], np.float32), np.array([0.1, 0.7, 0.2], np.float32)
    image = alpha[..., None] * red + (1 - alpha[..., None]) * green
    front, back = separate_colors(image, alpha)
    assert np.abs(front - red)[alpha > 0.2].max() < 0.06
    assert np.abs(back - green)[alpha < 0.8].max() < 0.06


def test_a_filled_room_keeps_what_is_seen_and_takes_the_rest_from_around():
    image = np.tile(np.linspace(0.2, 0.8, 64, dtype=np.float32)[None, :, None], (48, 1, 3))
    hole = np.zeros((48, 64), bool)
    hole[10:40, 20:44] = True
    painted = image.copy()
    painted[hole] = [1, 0, 1]
    room = fill_room(painted, hole)
    assert np.abs(room - image).max() < 0.12
    assert (room[:, :15] == image[:, :15]).all()
    assert (fill_room(painted, np.ones_like(hole)) == painted).all()
