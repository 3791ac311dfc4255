"""Pose, expression and lens from keypoints of known people; who is taken of several; how far arms may gesture."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from avatar_core.errors import UserError
from avatar_core.geometry.camera import look_at
from avatar_core.io.lens import field_of_view
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.layout import make_layout
from avatar_core.perception.holistic.people import Person
from avatar_core.personalise.freedom import arm_freedom, held_things
from avatar_core.personalise.limbs import LIMBS
from avatar_core.personalise.portrait_pose import Sighting, fit_portrait_pose
from avatar_core.personalise.sighting import look
from avatar_core.personalise.surface import silhouette
from avatar_core.template import keypoint_template, load_template, pose_template, relaxed_rotvecs
from avatar_core.template.landmarks import KEYPOINT_INDEX, KEYPOINTS

SIZE = 512
ARMS = [KEYPOINT_INDEX[f"{joint}.{side}"] for joint in ("shoulder", "elbow", "wrist") for side in "LR"]


def arms(fold, twist=0.0, swing=(0.0, 0.0, 0.0)):
    """Rotation vectors (B,3): both elbows folded about their hinges, upper arms turned inwards and swung."""
    template, out = load_template(), relaxed_rotvecs().astype(float)
    heads, bone = template.bone_heads.astype(float), template.bone_index
    for side, sign in (("L", 1.0), ("R", -1.0)):
        shoulder, elbow, wrist = (heads[bone[f"{b}.{side}"]] for b in ("upperarm01", "lowerarm01", "wrist"))
        upper = (elbow - shoulder) / np.linalg.norm(elbow - shoulder)
        hinge = np.cross(upper, wrist - elbow)
        out[bone[f"lowerarm01.{side}"]] = fold * hinge / np.linalg.norm(hinge)
        turn = Rotation.from_rotvec(out[bone[f"upperarm01.{side}"]]) * Rotation.from_rotvec(
            sign * twist * upper
        )
        out[bone[f"upperarm01.{side}"]] = (Rotation.from_rotvec(swing) * turn).as_rotvec()
    return out.astype(np.float32)


def points(rotvecs, shape=None, actions=None):
    tensor = lambda a: None if a is None else torch.from_numpy(np.asarray(a, np.float32))  # noqa: E731
    face = None if actions is None else tensor(actions)[None]
    return keypoint_template().keypoints(tensor(shape), tensor(rotvecs)[None], None, face)[0].numpy()


def seen(body, camera, *, depth=True, noise=0.5):
    """What a detector with noise of so many pixels sees, and with a rough idea of the limbs' directions."""
    rng = np.random.default_rng(0)
    xy, _ = camera.project(body)
    xy = xy + rng.normal(size=xy.shape) * noise
    inside = ((xy > 0) & (xy < SIZE)).all(1)
    turned = body @ camera.viewmat[:3, :3].T
    limbs = np.array([turned[KEYPOINT_INDEX[b]] - turned[KEYPOINT_INDEX[a]] for a, b in LIMBS])
    limbs = limbs + rng.normal(size=limbs.shape) * 0.04
    limbs /= np.linalg.norm(limbs, axis=1, keepdims=True)
    fov = float(np.degrees(2 * np.arctan(SIZE / 2 / camera.K[0, 0])))
    certain = np.full(len(LIMBS), 0.9 * depth)
    return Sighting(xy, np.where(inside, 0.95, 0.0), limbs * depth, certain, fov, 0.0)


def fitted_points(pose):
    body = points(pose.rotvecs, pose.shape, pose.face_weights)
    xy, _ = pose.camera.project(body)
    return body @ pose.camera.viewmat[:3, :3].T, xy


@pytest.mark.parametrize(
    "rotvecs",
    [arms(1.0), arms(1.0, 0.9, (-0.4, 0, 0)), arms(0.7, 0.7)],
    ids=["bent", "crossed", "clasped"],
)
def test_bent_and_crossed_arms_are_found_in_depth(rotvecs):
    camera = look_at((0, -1.6, 1.2), (0, 0, 1.25), 48, SIZE, SIZE)
    body = points(rotvecs, np.random.default_rng(2).normal(size=10) * 0.5)
    sighting = seen(body, camera)
    place, xy = fitted_points(fit_portrait_pose(sighting, SIZE, SIZE))
    truth = body @ camera.viewmat[:3, :3].T
    left, right = ARMS[:2]
    shoulders = np.linalg.norm(truth[left] - truth[right])
    shoulders_px = np.linalg.norm(sighting.xy[left] - sighting.xy[right])
    assert np.linalg.norm(xy - sighting.xy, axis=1)[ARMS].max() < 0.1 * shoulders_px
    place = place * shoulders / np.linalg.norm(place[left] - place[right])
    middle = ARMS[:2]
    error = (place - place[middle].mean(0)) - (truth - truth[middle].mean(0))
    assert np.linalg.norm(error, axis=1)[ARMS].max() < 0.25 * shoulders


def test_a_smile_is_an_expression_and_not_the_shape():
    template = load_template()
    names = template.face_action_names
    smile = np.array(
        [{"mouthSmileLeft": 0.7, "mouthSmileRight": 0.7, "jawOpen": 0.25}.get(n, 0) for n in names]
    )
    camera = look_at((0, -1.6, 1.4), (0, 0, 1.5), 30, SIZE, SIZE)
    pose = fit_portrait_pose(seen(points(relaxed_rotvecs(), None, smile), camera), SIZE, SIZE)
    found = dict(zip(names, pose.face_weights, strict=True))
    assert min(found["mouthSmileLeft"], found["mouthSmileRight"]) > 0.2 and found["jawOpen"] > 0.1
    # at rest the lips meet as in the mean face
    upper, lower = (KEYPOINT_INDEX[f"lips_inner.{n}"] for n in ("upper", "lower"))
    gap = lambda body: float(np.linalg.norm(body[upper] - body[lower]))  # noqa: E731
    smiling = gap(points(relaxed_rotvecs(), None, smile))
    assert smiling > 0.004 > 0.0025 > gap(points(relaxed_rotvecs(), pose.shape))


def test_a_camera_that_leans_and_turns_is_the_persons_own_turn():
    camera = look_at((0.5, -1.7, 0.9), (0, 0, 1.3), 40, SIZE, SIZE)
    sighting = seen(points(relaxed_rotvecs()), camera)
    pose = fit_portrait_pose(sighting, SIZE, SIZE)
    _, xy = fitted_points(pose)
    shown = sighting.confidence > 0
    assert np.median(np.linalg.norm(xy - sighting.xy, axis=1)[shown]) < 2.5
    assert 0.15 < np.linalg.norm(pose.rotvecs[load_template().bone_index["root"]]) < 0.8


def test_a_lens_nobody_told_is_estimated_from_a_face_close_by():
    near = look_at((0, -0.45, 1.5), (0, 0, 1.5), 60, SIZE, SIZE)
    sighting = replace(seen(points(relaxed_rotvecs()), near, noise=0.2), fov_deg=26.0, lens_sigma=0.45)
    pose = fit_portrait_pose(sighting, SIZE, SIZE)
    found = np.degrees(2 * np.arctan(SIZE / 2 / pose.camera.K[0, 0]))
    assert found > 33


def test_the_files_lens_is_read(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    Image.new("RGB", (400, 300)).save(tmp_path / "phone.jpg", exif=exif)
    assert field_of_view(tmp_path / "phone.jpg") == pytest.approx(67.3, abs=0.2)
    Image.new("RGB", (400, 300)).save(tmp_path / "none.png")
    (tmp_path / "text.jpg").write_text("no picture")
    assert field_of_view(tmp_path / "none.png") is None and field_of_view(tmp_path / "text.jpg") is None


class Crowd:
    """A detector that sees so many faces and one body without a face."""

    def __init__(self, faces):
        nothing = np.zeros((33, 2)), np.zeros(33), np.zeros((33, 3))
        person = lambda presence: Person(np.zeros((478, 3)), presence, *nothing, {}, {}, np.zeros(4))  # noqa: E731
        self.crowd = [*(person(0.9 - 0.1 * k) for k in range(faces)), person(0.0)]

    def keypoints(self, images):
        raise AssertionError("people are asked for")

    def people(self, image):
        return self.crowd

    def person_keypoints(self, person, width, height):
        return np.full((len(KEYPOINTS), 2), person.face_presence), np.ones(len(KEYPOINTS))


def test_the_largest_face_is_taken_or_the_one_asked_for():
    picture = np.zeros((100, 100, 3), np.float32)
    first, second = (look(Crowd(2), picture, k, None) for k in (1, 2))
    assert first.faces == second.faces == 2
    assert first.sighting.xy[0, 0] == pytest.approx(0.9) and second.sighting.xy[0, 0] == pytest.approx(0.8)
    assert first.sighting.lens_sigma > look(Crowd(2), picture, 1, 65.0).sighting.lens_sigma
    with pytest.raises(UserError, match="--person: expected 1 to 2"):
        look(Crowd(2), picture, 3, None)
    with pytest.raises(UserError, match="whose face is not seen"):
        look(Crowd(0), picture, 1, None)


@pytest.fixture(scope="module")
def layout():
    return make_layout(ParticleBudgets(face=300, hand=80, eyes=40, mouth_interior=40, body=400))


def test_hanging_arms_are_free_and_others_less(layout):
    template, shape = load_template(), np.zeros(1, np.float32)
    everything, certain, empty = np.ones(len(layout), bool), np.ones(len(KEYPOINTS)), np.zeros(2, bool)

    def free(stance, seen=everything, confidence=certain, holding=empty):
        return arm_freedom(template, layout, shape, stance, seen, confidence, holding)

    assert (free(relaxed_rotvecs()) == 1).all()
    assert (free(arms(1.0)) < 0.4).all()
    assert (free(arms(1.0, 1.2, (-0.3, 0, 0))) < 0.2).all()  # wrists together
    assert (free(relaxed_rotvecs(), confidence=0 * certain) < 0.4).all()
    assert free(relaxed_rotvecs(), holding=np.array([True, False])).tolist() == [0.0, 1.0]


def test_a_bag_in_the_hand_is_noticed():
    template, shape = load_template(), np.zeros(1, np.float32)
    camera = look_at((0, -3, 1.0), (0, 0, 1.0), 40, SIZE, SIZE)
    vertices = pose_template(template, shape, relaxed_rotvecs())
    core = silhouette(vertices, template.faces, camera)
    xy, _ = camera.project(points(relaxed_rotvecs()))
    hand = xy[KEYPOINT_INDEX["hand.finger3-tip.L"]]
    bag = core.astype(np.uint8)
    cv2.rectangle(bag, np.round(hand - [5, 0]).astype(int), np.round(hand + [35, 60]).astype(int), 1, -1)
    held = lambda mask: held_things(template, vertices, shape, relaxed_rotvecs(), camera, mask).tolist()  # noqa: E731
    assert held(core) == [False, False]
    assert held(bag > 0) == [True, False]


def test_errors_of_a_detector_do_not_make_people_small():
    template, camera = load_template(), look_at((0, -4.2, 1.0), (0, 0, 1.0), 24, SIZE, SIZE)
    pose = fit_portrait_pose(seen(points(relaxed_rotvecs()), camera), SIZE, SIZE)
    found, average = (
        template.rest(shape)[0][template.part == 0, 2].max() for shape in (pose.shape, 0 * pose.shape)
    )
    assert found == pytest.approx(average, rel=0.04)
