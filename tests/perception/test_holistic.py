"""The published nets against their own runtimes, and the people they find in renders, in a photograph and in nothing."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from avatar_core.perception.holistic.clip import track_face, track_person
from avatar_core.perception.holistic.detect import anchor_centres
from avatar_core.perception.holistic.graph import OPERATIONS, load_graph
from avatar_core.perception.holistic.keypoints import HolisticKeypoints
from avatar_core.perception.holistic.people import find_people, person_mask, turned_back
from avatar_core.perception.holistic.regions import Picture, to_picture
from avatar_core.procedural.people import Person, framing_camera, relaxed_pose, sample_identities
from avatar_core.recipes.weights.parity import kept, noise
from avatar_core.template.landmarks import KEYPOINT_INDEX, indices, keypoints_from_vertices

torch.set_num_threads(1)
PARITY = load_file(Path(__file__).parents[1] / "data" / "holistic" / "parity.safetensors")
NETS = sorted({name.split(".")[0] for name in PARITY if name.endswith(".size")})


@functools.cache
def render(framing: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A procedural person in a framing -> picture (size,size,3) uint8 and true keypoints (K,2)."""
    person = Person.build(sample_identities(1, 3, "holistic-test")[0])
    camera = framing_camera(person.vertices(), framing, size)
    weights, pose, move = np.zeros(52, np.float32), relaxed_pose(), None
    picture, _ = person.render(weights, pose, move, camera)
    truth = keypoints_from_vertices(person.vertices(weights, pose, move), person.joints(pose, move))
    return picture, camera.project(truth)[0]


@pytest.mark.parametrize("name", NETS)
def test_each_net_gives_what_its_own_runtime_gives(name: str):
    image = noise(int(PARITY[f"{name}.size"][0]))
    outputs = load_graph(name)(torch.from_numpy(image))
    assert f"{name}.{len(outputs)}" not in PARITY
    for k, output in enumerate(outputs):
        theirs = PARITY[f"{name}.{k}"]
        error = np.abs(kept(output.numpy()) - theirs).max() / theirs[-1]
        assert error < 2e-3, (name, k, error)  # measured: 4e-7 to 5e-4


def test_a_batch_gives_what_its_pictures_give():
    images = torch.from_numpy(np.concatenate([noise(192), noise(192)[:, ::-1]]))
    together = load_graph("face")(images)
    alone = [load_graph("face")(image[None]) for image in images]
    for k, output in enumerate(together):
        assert torch.allclose(output, torch.cat([a[k] for a in alone]), atol=2e-3), k


def test_the_window_of_the_attention_mesh_turns_with_its_points():
    points = torch.tensor([[[0.0, 0, 0], [4, 0, 0], [4, 2, 0], [0, 2, 0]]])
    turn = np.radians(30)
    rotation = torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]).float()
    turned = torch.cat([points[..., :2] @ rotation.T + 3, points[..., 2:]], -1)
    options = {"left": 0, "right": 1, "angle": 0.0, "scale": 1.5, "size": 16, "points": [0, 1, 2, 3]}
    corner = torch.tensor([[[0.0, 0.0, 0.0]]])
    for shape, expected in (
        (points, [2 - 3.0, 1 - 1.5]),
        (turned, (rotation @ torch.tensor([2 - 3.0, 1 - 1.5]) + 3).tolist()),
    ):
        window = OPERATIONS["window"](shape, options)
        assert OPERATIONS["move"](corner, window, {})[0, 0, :2].tolist() == pytest.approx(expected, abs=1e-5)


def test_sampling_through_an_identity_gives_the_map_and_zero_outside():
    x = torch.arange(16.0).reshape(1, 1, 4, 4) + 1
    same = torch.eye(4)[None]
    assert torch.allclose(OPERATIONS["sample"](x, same, {"size": [4, 4]}), x)
    far = same.clone()
    far[0, 0, 3] = 2.5
    moved = OPERATIONS["sample"](x, far, {"size": [4, 4]})
    assert moved[0, 0, 0].tolist() == pytest.approx([3.5, 0, 0, 0])


def test_anchors_are_as_many_as_the_nets_answer():
    for name in ("face_near", "face_far", "body_box", "palm"):
        size = int(PARITY[f"{name}.size"][0])
        assert len(anchor_centres(name)) == load_graph(name)(torch.zeros(1, size, size, 3))[0].shape[1]


def test_a_crop_is_where_its_region_says():
    image = np.zeros((90, 120, 3), np.uint8)
    cv2.circle(image, (70, 30), 3, (255, 255, 255), -1)
    region = np.array([[64.0, 36.0, 40.0, 0.6]])
    crop = Picture(image).crop(region[0], 80).mean(-1)
    ys, xs = np.nonzero(crop > 100)
    found = to_picture(np.array([[[xs.mean() + 0.5, ys.mean() + 0.5]]]) / 80, region)[0, 0]
    assert found == pytest.approx([70.5, 30.5], abs=0.3)


def test_a_point_of_a_turned_picture_comes_back():
    image = np.zeros((30, 50), np.uint8)
    image[7, 41] = 1
    for turn in range(4):
        y, x = (int(v[0]) for v in np.nonzero(np.rot90(image, -turn)))
        assert turned_back(np.array([x + 0.5, y + 0.5]), turn, 50, 30).tolist() == [41.5, 7.5]


def test_the_person_of_a_render_is_found_whole():
    picture, truth = render("waist_up", 448)
    (person,) = find_people(picture)
    assert person.face_presence > 0.9
    assert person.turn == 0
    assert set(person.hands) == {"L", "R"}
    width = np.linalg.norm(truth[KEYPOINT_INDEX["shoulder.L"]] - truth[KEYPOINT_INDEX["shoulder.R"]])
    for name, point in (("shoulder.L", 11), ("shoulder.R", 12), ("wrist.L", 15), ("wrist.R", 16)):
        assert np.linalg.norm(person.pose[point] - truth[KEYPOINT_INDEX[name]]) < 0.2 * width, name
    mask = person_mask(picture)
    assert mask[100:, 200:240].mean() > 0.8 and mask[:60, :60].mean() < 0.1


def test_the_map_puts_face_and_hands_where_the_template_has_them():
    picture, truth = render("face", 256)
    (xy,), (confidence,) = HolisticKeypoints().keypoints(picture[None])
    eyes = np.linalg.norm(truth[KEYPOINT_INDEX["eyelids.outer.L"]] - truth[KEYPOINT_INDEX["eyelids.outer.R"]])
    error = np.linalg.norm(xy - truth, axis=1) / eyes
    assert np.median(error[indices("lips_", "eyelids.", "iris.")]) < 0.04
    assert np.median(error[indices("brows.", "nose.")]) < 0.06
    assert confidence[indices("lips_")].min() > 0.9
    picture, truth = render("waist_up", 448)
    (xy,), (confidence,) = HolisticKeypoints().keypoints(picture[None])
    hands = indices("hand.")
    palm = np.linalg.norm(truth[KEYPOINT_INDEX["hand.wrist.L"]] - truth[KEYPOINT_INDEX["hand.finger3-1.L"]])
    assert np.median(np.linalg.norm(xy - truth, axis=1)[hands]) < 0.25 * palm
    assert np.median(confidence[hands]) > 0.6


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_picture_that_lies_or_stands_on_its_head_is_found_and_said(turn: int):
    picture, truth = render("waist_up", 448)
    people = find_people(np.ascontiguousarray(np.rot90(picture, turn)))
    assert people and people[0].turn == turn  # quarter turns clockwise put it upright again
    nose = turned_back(people[0].face[1, :2], -turn % 4, 448, 448)
    eyes = np.linalg.norm(truth[KEYPOINT_INDEX["eyelids.outer.L"]] - truth[KEYPOINT_INDEX["eyelids.outer.R"]])
    assert np.linalg.norm(nose - truth[KEYPOINT_INDEX["nose.tip"]]) < 0.2 * eyes


def test_nobody_is_found_where_nobody_is():
    rng = np.random.default_rng(0)
    soft = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (320, 320), interpolation=cv2.INTER_CUBIC)
    for picture in (
        np.full((240, 320, 3), 128, np.uint8),
        rng.integers(0, 256, (256, 256, 3), np.uint8),
        soft,
    ):
        assert find_people(picture) == []
    _, confidence = HolisticKeypoints().keypoints(soft[None])
    assert not confidence.any()


def test_a_clip_follows_its_person():
    picture, _ = render("face", 256)
    shifts = np.array([0, 3, 7, 12, 18, 22, 24, 25, 25, 22, 16])
    frames = np.stack([np.roll(picture, s, 1) for s in shifts])
    found = track_person(frames)
    assert found.face_presence.min() > 0.9
    nose = found.face[:, 1, 0] - shifts
    assert np.ptp(nose) < 1.5
    again = track_person(frames)
    assert np.array_equal(found.face, again.face)
    mesh, presence = track_face(frames)
    assert np.array_equal(found.face, mesh) and np.array_equal(found.face_presence, presence)
    blank = track_person(np.full((5, 128, 128, 3), 90, np.uint8))
    assert not blank.face_presence.any() and not blank.pose_visibility.any()


def test_the_astronaut_is_seen_as_mediapipe_itself_sees_her():
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        pytest.skip("scikit-image, which ships the photograph, is not installed (extra `real`)")
    image = cv2.imread(str(Path(package.origin).parent / "data" / "astronaut.png"))
    (person, *others) = find_people(np.ascontiguousarray(image[..., ::-1]))
    assert not others and person.face_presence > 0.9 and person.turn == 0
    face, pose = PARITY["astronaut.face"], PARITY["astronaut.pose"]
    eyes = np.linalg.norm(face[33] - face[263])
    error = np.linalg.norm(person.face[:, :2] - face, axis=1) / eyes
    assert np.median(error) < 0.02  # measured: .009; they look once, we twice and from nearer
    shoulders = np.linalg.norm(pose[11, :2] - pose[12, :2])
    seen = pose[:, 2] > 0.6
    assert np.median(np.linalg.norm(person.pose - pose[:, :2], axis=1)[seen]) < 0.08 * shoulders
