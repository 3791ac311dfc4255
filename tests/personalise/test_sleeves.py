"""Arms of which a portrait shows little: where sleeves end, what hidden parts look like, and how far such arms may gesture."""

import numpy as np
import pytest

from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.layout import REGIONS, make_layout
from avatar_core.personalise.freedom import arm_freedom
from avatar_core.personalise.sleeves import complete_arms, find_arms, misread, sleeve_ends
from avatar_core.template import load_template, relaxed_rotvecs
from avatar_core.template.landmarks import KEYPOINTS

SKIN, SHIRT, BLACK = np.array([[0.7, 0.5, 0.4], [0.5, 0.6, 0.75], [0.02, 0.02, 0.02]])


@pytest.fixture(scope="module")
def layout():
    return make_layout(ParticleBudgets(face=300, hand=300, eyes=40, mouth_interior=40, body=5600))


@pytest.fixture(scope="module")
def arms(layout):
    return find_arms(load_template(), layout)


def dressed(arms, layout, end):
    """Colours (N,3) of a person in a shirt whose sleeves end at `end`, in uneven light."""
    light = np.random.default_rng(0).uniform(0.9, 1.1, (len(layout), 1))
    bare = (arms.along > end) | (layout.region != REGIONS["body"])
    return np.where(bare[:, None], SKIN, SHIRT) * light


def finish(arms, layout, colors, seen):
    ends, pieces = sleeve_ends(arms, layout, colors, seen)
    told = seen & ~misread(arms, ends, pieces, colors, seen)
    key = layout.template_positions * [1, 0.35, 1]
    key[:, 0] = np.abs(key[:, 0])
    unknown = np.where(seen[:, None], colors, SHIRT)
    return complete_arms(arms, ends, layout, key, unknown, missing=~seen, told=told)


def test_arms_run_from_shoulder_to_fingers(arms, layout):
    left = layout.template_positions[:, 0] > 0
    assert (left[arms.side == 0]).all() and not left[arms.side == 1].any()
    assert set(np.unique(arms.part)) == set(range(7))
    hand = layout.region == REGIONS["hand_left"]
    assert np.median(arms.along[hand]) > 2 and (arms.side[hand] == 0).all()
    assert (arms.side[layout.region == REGIONS["face"]] == -1).all()


@pytest.mark.parametrize("end", [0.4, 0.8, 1.5, 2.0])
def test_sleeves_end_where_skin_begins(arms, layout, end):
    seen = np.random.default_rng(1).random(len(layout)) < 0.4
    ends, _ = sleeve_ends(arms, layout, dressed(arms, layout, end), seen)
    assert ends == pytest.approx([end, end], abs=0.11)


def test_bare_arms_and_dark_pictures_have_no_sleeve(arms, layout):
    bare = dressed(arms, layout, -1.0)
    assert np.isnan(sleeve_ends(arms, layout, bare, np.ones(len(layout), bool))[0]).all()
    assert np.isnan(sleeve_ends(arms, layout, bare, np.zeros(len(layout), bool))[0]).all()


def test_a_hidden_forearm_below_a_short_sleeve_is_skin(arms, layout):
    truth = dressed(arms, layout, 0.8)
    seen = np.isnan(arms.along) | (arms.along < 0.8) | (arms.along > 2.05)
    found = finish(arms, layout, truth, seen)
    fore = (arms.along > 1.05) & (arms.along < 2) & (layout.region == REGIONS["body"])
    assert fore.sum() > 200
    assert np.abs(found - truth)[fore].max() < 0.12


def test_a_hidden_forearm_of_a_long_sleeve_is_cloth_as_the_other_arm_tells(arms, layout):
    truth = dressed(arms, layout, 2.0)
    seen = (arms.side != 0) | (arms.along < 0.8) | (layout.region != REGIONS["body"])
    found = finish(arms, layout, truth, seen)
    hidden = ~seen & (arms.along < 1.9)
    assert hidden.sum() > 100
    assert np.abs(found - truth)[hidden].max() < 0.12


def test_something_black_before_one_arm_is_not_taken_for_skin(arms, layout):
    colors = dressed(arms, layout, 2.0)
    before = (arms.side == 0) & (arms.along > 0.6)
    colors[before] = BLACK
    seen = ~((arms.side == 0) & (layout.region == REGIONS["hand_left"]))
    ends, _ = sleeve_ends(arms, layout, colors, seen)
    assert ends[0] > 1.8


def test_cloth_seen_on_a_hand_that_lies_beside_the_real_one_tells_nothing(arms, layout):
    colors, seen = dressed(arms, layout, 0.8), np.ones(len(layout), bool)
    hands = np.flatnonzero(np.isin(layout.region, [REGIONS["hand_left"], REGIONS["hand_right"]]))
    colors[hands[::5]] = SHIRT
    ends, pieces = sleeve_ends(arms, layout, colors, seen)
    wrong = misread(arms, ends, pieces, colors, seen)
    assert wrong[hands[::5]].all() and wrong.sum() == len(hands[::5])
    seen[(arms.along > 0.8) & (layout.region == REGIONS["body"])] = False
    fore = ~seen & (arms.along > 1.5)
    assert fore.sum() > 100
    assert np.abs(finish(arms, layout, colors, seen) - dressed(arms, layout, 0.8))[fore].max() < 0.12


def test_arms_gesture_as_far_as_they_were_seen(arms, layout):
    template, shape = load_template(), np.zeros(1, np.float32)
    order = np.random.default_rng(2).random(len(layout))

    def free(part, share):
        seen = (arms.part != part) | (order < share)
        certain, empty = np.ones(len(KEYPOINTS)), np.zeros(2, bool)
        return arm_freedom(template, layout, shape, relaxed_rotvecs(), seen, certain, empty)

    for part, least in ((1, 0.4), (2, 0.2), (3, 0.3)):  # of the left arm: upper arm, forearm, hand
        amounts = np.array([free(part, share) for share in np.linspace(0, 0.5, 26)])
        assert amounts[0, 0] < least and amounts[-1, 0] == 1
        assert (amounts[:, 1] == 1).all()
        steps = np.diff(amounts[:, 0])
        assert (steps > -0.05).all() and steps.max() < 0.35  # no switch
