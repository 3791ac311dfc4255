"""Procedural people: variety, geometry, closed eyes and lips, framings, alpha, determinism across processes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest

from avatar_core.procedural.people import (
    Person,
    contact_sheet,
    face_vector,
    framing_camera,
    load_body_model,
    neutral_face,
    relaxed_pose,
    sample_identities,
)
from avatar_core.procedural.people.anny_export import BODY_VERTICES
from avatar_core.procedural.people.body_model import lip_gap, phenotype_for_stature, skin_transforms, stature
from avatar_core.procedural.people.framing import head_span


@lru_cache(maxsize=4)
def _person(k: int) -> Person:
    return Person.build(sample_identities(4, 3, "tests")[k])


def _rest(person: Person) -> np.ndarray:
    return person.vertices(None, relaxed_pose(), None)


def test_identities_are_json_and_stable():
    people = sample_identities(6, 5, "train")
    assert [p.attributes for p in people] == [json.loads(json.dumps(p.attributes)) for p in people]
    assert people[:3] == sample_identities(3, 5, "train")  # a longer list starts with the same people


def test_namespaces_and_seeds_share_nobody():
    groups = [
        sample_identities(20, s, n)
        for s, n in ((7, "train"), (7, "val"), (7, "test"), (8, "train"), (7, "critics"))
    ]
    ids = [p.id for group in groups for p in group]
    faces = [json.dumps(p.attributes["face"]) for group in groups for p in group]
    assert len(set(ids)) == len(ids) and len(set(faces)) == len(faces)


@pytest.mark.parametrize("seed", range(8))
def test_six_people_cover_what_one_sees(seed):
    looks = [p.attributes for p in sample_identities(6, seed, "cover")]
    assert sorted(a["sex"] for a in looks) == ["female"] * 3 + ["male"] * 3
    assert len({a["skin_tone"] for a in looks}) >= 5
    assert len({a["hair_style"] for a in looks}) >= 5
    assert len({a["top"]["kind"] for a in looks}) >= 5
    assert len({tuple(a["top"]["color"]) for a in looks}) >= 5
    ages = [a["age"] for a in looks]
    assert min(ages) < 31 and max(ages) > 60


def test_unknown_attributes_file_is_one_line(tmp_path):
    from avatar_core.errors import UserError
    from avatar_core.procedural.people.identity import load_dictionary

    with pytest.raises(UserError, match="expected the attribute dictionary"):
        load_dictionary(tmp_path / "nope.yaml")
    (tmp_path / "empty.yaml").write_text("ages: []\n")
    with pytest.raises(UserError, match="missing"):
        load_dictionary(tmp_path / "empty.yaml")


def test_stature_is_what_was_asked_for():
    phenotype = {"gender": 0.9, "age": 0.8, "weight": 0.6, "caucasian": 1.0, "african": 0.0, "asian": 0.0}
    assert stature(phenotype_for_stature(phenotype, 1.66)) == pytest.approx(1.66, abs=0.003)


def test_rest_space_and_zero_pose():
    person = _person(0)
    v = person.vertices()
    assert v.shape == (19158, 3)
    np.testing.assert_allclose(v, person.rest.vertices, atol=1e-5)
    assert abs(v[:BODY_VERTICES, 2].min()) < 1e-5 and np.abs(person.joints()["root"][:2]).max() < 1e-6
    model = load_body_model()
    hand = np.abs(v[:BODY_VERTICES, 0]).max()
    left = person.joints()["wrist.L"][0]
    assert 0 < left < hand  # +X is the person's left
    nose = v[np.argmin(v[:BODY_VERTICES, 1] + 10 * (np.abs(v[:BODY_VERTICES, 0]) > 0.02))]
    assert nose[1] < 0 and len(model.action_names) == 52


def test_joints_follow_a_rotation_and_twist_is_shared():
    person = _person(0)
    model = load_body_model()
    pose = relaxed_pose()
    b = model.bone_names.index("head")
    pose[b] = (0, 0, 0.4)
    heads = person.joints(pose, (0.1, 0.0, 0.2))
    still = person.joints(relaxed_pose())
    np.testing.assert_allclose(heads["head"], still["head"] + np.array([0.1, 0, 0.2]), atol=1e-5)
    assert np.linalg.norm(heads["eye.L"] - still["eye.L"] - [0.1, 0, 0.2]) > 0.01
    # A pure twist of the wrist turns the hand as asked but leaves every joint up to the wrist in place.
    wrist, lower = model.bone_names.index("wrist.L"), model.bone_names.index("lowerarm02.L")
    axis = person.rest.heads[wrist] - person.rest.heads[lower]
    twist = np.zeros((104, 3))
    twist[wrist] = axis / np.linalg.norm(axis) * 1.2
    t = skin_transforms(person.rest.heads, twist)
    angle = [np.degrees(np.arccos((np.trace(t[k, :, :3]) - 1) / 2)) for k in (lower, wrist)]
    np.testing.assert_allclose(angle, np.degrees([0.6, 1.2]), atol=0.01)
    np.testing.assert_allclose(person.joints(twist)["wrist.L"], person.rest.heads[wrist], atol=1e-5)


@pytest.mark.parametrize("k", range(4))
def test_lips_rest_closed_and_open(k):
    person = _person(k)
    assert -0.001 < lip_gap(person.vertices()) < 0.0003
    press = face_vector(
        {"mouthPressLeft": 0.35, "mouthPressRight": 0.35, "mouthRollLower": 0.15, "mouthRollUpper": 0.15}
    )
    assert lip_gap(person.vertices(press)) < 0.0
    assert lip_gap(person.vertices(face_vector({"jawOpen": 0.5}))) > 0.008


@pytest.mark.parametrize("k", range(4))
def test_blink_hides_the_eyes(k):
    """The sclera and iris of an open eye cover dozens of pixels; with eyeBlink = 1 nothing of the eyeball shows."""
    person = _person(k)
    camera = framing_camera(_rest(person), "face", 256)
    eye = int(np.argmax(person.mesh.table[:, 0] == 1))

    def visible(face):
        from avatar_core.procedural.people.person import draw_owners

        _, owner, d = draw_owners(person, face, relaxed_pose(), None, camera, 2)
        return int((d.material[owner[owner >= 0]] == eye).sum())

    assert visible(neutral_face()) > 60
    assert visible(face_vector({"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0})) <= 4


def test_framings():
    person = _person(1)
    v = _rest(person)
    chin, crown = head_span(v)
    camera = framing_camera(v, "face", 256)
    y = camera.project(np.array([[0, 0, chin], [0, 0, crown]]))[0][:, 1]
    assert 110 <= y[0] - y[1] <= 180 and y[1] > 10
    joints = person.joints(relaxed_pose())
    for framing, inside in (("portrait", True), ("full_body", True), ("face", False)):
        camera = framing_camera(v, framing, 256)
        tips = camera.project(np.stack([joints["finger3-3.L"], joints["finger3-3.R"]]))[0]
        assert ((tips > 4) & (tips < 252)).all() == inside
    feet = framing_camera(v, "full_body", 256).project(np.stack([joints["foot.L"], joints["foot.R"]]))[0]
    assert (feet[:, 1] < 254).all()
    with pytest.raises(ValueError, match="framing"):
        framing_camera(v, "bust", 256)


def test_alpha_matches_the_silhouette():
    person = _person(2)
    v = _rest(person)
    camera = framing_camera(v, "portrait", 192)
    blue, orange = np.array([0.0, 0, 1]), np.array([1, 0.5, 0])
    a_rgb, alpha = person.render(neutral_face(), relaxed_pose(), None, camera, background=blue)
    b_rgb, again = person.render(neutral_face(), relaxed_pose(), None, camera, background=orange)
    assert np.array_equal(alpha, again)
    # Difference of the two composites reveals coverage: rgb = a * person + (1 - a) * background.
    seen = 1 - (b_rgb[..., 0].astype(float) - a_rgb[..., 0]) / 255
    np.testing.assert_allclose(seen, alpha / 255, atol=0.006)
    xy, _ = camera.project(v[:BODY_VERTICES])
    low, high = xy.min(0), xy.max(0)
    rows, columns = np.nonzero(alpha > 128)
    assert abs(columns.min() - low[0]) < 6 and abs(columns.max() - high[0]) < 6
    assert rows.max() == 191 and 0.15 < (alpha > 128).mean() < 0.6


def test_background_is_smooth_and_free_of_shadows():
    person = _person(2)
    camera = framing_camera(_rest(person), "face", 128)
    rgb, alpha = person.render(neutral_face(), relaxed_pose(), None, camera)
    y, x = (np.mgrid[0:128, 0:128] + 0.5) / 128
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)[alpha == 0]
    values = rgb[alpha == 0].astype(float)
    residual = values - basis @ np.linalg.lstsq(basis, values, rcond=None)[0]
    assert np.abs(residual).max() < 1.0  # a quadratic image, up to rounding


SCRIPT = """
import hashlib, numpy as np
from avatar_core.procedural.people import *
person = Person.build(sample_identities(2, 3, "tests")[1])
camera = framing_camera(person.vertices(None, relaxed_pose(), None), "face", 96)
rgb, alpha = person.render(face_vector({"jawOpen": 0.3}), relaxed_pose(), None, camera)
print(hashlib.sha256(rgb.tobytes() + alpha.tobytes()).hexdigest())
"""


def test_same_bytes_in_another_process():
    person = _person(1)
    camera = framing_camera(_rest(person), "face", 96)
    person.render(
        neutral_face(), None, None, framing_camera(_rest(person), "portrait", 64)
    )  # earlier renders leave no trace
    rgb, alpha = person.render(face_vector({"jawOpen": 0.3}), relaxed_pose(), None, camera)
    here = hashlib.sha256(rgb.tobytes() + alpha.tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_contact_sheet_shows_everybody():
    sheet = contact_sheet(sample_identities(3, 3, "tests"), size=64, framings=("portrait", "face"), columns=2)
    assert sheet.shape == (256, 128, 3)
    assert (sheet[128:, 64:] == 255).all() and sheet[:128].std() > 20
    with pytest.raises(ValueError):
        contact_sheet([])
