"""The actor: closures, phases, gestures, rest."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.procedural.performance import (
    ARKIT_INDEX,
    ARKIT_NAMES,
    BONE_INDEX,
    BONE_NAMES,
    VISEMES,
    Style,
    perform,
    relaxed_pose,
    sample_style,
    shape_vector,
    stress_times,
    visemes_of,
)
from avatar_core.procedural.performance.arms import LEFT_BONES, Arm, left_arm, place
from avatar_core.procedural.performance.bones import LEFT_ARM_HEADS
from avatar_core.procedural.performance.curves import smooth_noise
from avatar_core.procedural.performance.poses import GESTURES, arm_pose
from avatar_core.speech import Phoneme, Speech
from avatar_core.speech.espeak import synthesize

pytest.importorskip("espeakng_loader", reason="espeakng_loader is not installed (extra `espeak`)")

SENTENCES = [
    ("en", "Bob may push the big paper map off the table."),
    ("de", "Peter und Paula bringen viele bunte Blumen mit."),
    ("es", "Mi papá me compró un barco bonito para pescar."),
    ("fr", "Papa pose la belle pomme sur la petite table."),
    ("cmn", "妈妈买了八个红苹果。"),
]
JAW = ARKIT_INDEX["jawOpen"]


@pytest.fixture(scope="module")
def spoken() -> list[Speech]:
    return [synthesize(text, language, "lena") for language, text in SENTENCES]


def test_shapes_and_ranges(spoken):
    speech = spoken[0]
    played = perform(speech, speech.num_frames, 1)
    frames = speech.num_frames
    assert played.face_weights.shape == (frames, 52) and played.face_weights.dtype == np.float32
    assert played.rotvecs.shape == (frames, 104, 3) and played.translation.shape == (frames, 3)
    assert played.visemes.shape == (frames,) and played.visemes.max() < len(VISEMES)
    assert played.face_weights.min() >= 0 and played.face_weights.max() <= 1
    assert np.isfinite(played.rotvecs).all() and np.abs(played.rotvecs).max() < np.pi
    assert len(ARKIT_NAMES) == 52 and len(BONE_NAMES) == 104


@pytest.mark.parametrize("which", range(len(SENTENCES)))
def test_every_closure_closes(spoken, which):
    """Each p, b, m has a picture with the jaw shut and the lips pressed; vowels open the mouth."""
    speech = spoken[which]
    played = perform(speech, speech.num_frames, 2, Style(smile=0.0))
    assert len(played.closures) >= 4
    press = played.face_weights[:, ARKIT_INDEX["mouthPressLeft"]]
    for closure in played.closures:
        frames = slice(closure.first_frame, closure.end_frame)
        best = int(np.argmin(played.face_weights[frames, JAW]))
        assert played.face_weights[frames, JAW][best] < 0.06, closure
        assert press[frames][best] > 0.2, closure
    assert played.face_weights[:, JAW].max() > 0.25


def test_closures_cover_every_bilabial(spoken):
    speech = spoken[0]
    bilabials = [p for p in speech.phonemes if p.ipa and p.ipa[0] in "pbm"]
    closures = perform(speech, speech.num_frames, 1).closures
    assert [c.start_s for c in closures] == pytest.approx([p.start_s for p in bilabials])
    assert all(c.first_frame < c.end_frame <= speech.num_frames for c in closures)


def test_a_closure_shorter_than_an_instant_still_closes():
    phonemes = [
        Phoneme(0.0, 0.501, "a", True),
        Phoneme(0.501, 0.506, "p", False),
        Phoneme(0.506, 1.0, "a", True),
    ]
    speech = Speech(np.zeros(16000, np.float32), phonemes, "", "en", "x")
    played = perform(speech, 25, 0, Style(smile=0.0))
    assert played.face_weights[12, JAW] < 0.8 * played.face_weights[[8, 16], JAW].min()


def test_idle_keeps_the_mouth_shut():
    silent = perform(None, 100, 3)
    assert silent.face_weights[:, JAW].max() == 0.0
    assert (silent.face_weights[:, ARKIT_INDEX["mouthPressLeft"]] > 0.05).all()
    assert silent.closures == [] and silent.stresses == [] and silent.strokes == []
    assert silent.rotvecs.std(0).max() > 1e-3, "nobody stands like a statue"


def test_pause_before_speech_is_shut(spoken):
    speech = synthesize("Go away.", "en", "otto", lead_s=0.4, tail_s=0.4)
    jaw = perform(speech, speech.num_frames, 0).face_weights[:, JAW]
    assert jaw[:6].max() < 0.02 and jaw[-8:].max() < 0.02 and jaw.max() > 0.1


def test_same_seed_same_bytes_other_seed_other_motion(spoken):
    speech = spoken[0]
    first, again, other = (perform(speech, speech.num_frames, seed) for seed in (5, 5, 6))
    assert first.rotvecs.tobytes() == again.rotvecs.tobytes()
    assert first.face_weights.tobytes() == again.face_weights.tobytes()
    assert not np.allclose(first.rotvecs, other.rotvecs, atol=1e-3)
    # the lips follow the speech, whatever the seed
    assert np.abs(first.face_weights[:, JAW] - other.face_weights[:, JAW]).max() < 1e-6


def test_idle_phases_are_random_across_seeds():
    """Head turn and sway must not be a function of the clip's time."""
    head, neck = BONE_INDEX["head"], BONE_INDEX["spine02"]
    curves = np.stack([perform(None, 150, seed).rotvecs[:, [head, neck], 2].T for seed in range(24)])
    for k in range(2):
        correlation = np.corrcoef(curves[:, k])
        off = correlation[~np.eye(24, dtype=bool)]
        assert abs(off.mean()) < 0.15, off.mean()
        starts = curves[:, k, 0]
        assert starts.std() > 0.3 * curves[:, k].std(), "every clip starts somewhere else"


def test_blinks_are_random_and_complete():
    lids = np.stack([perform(None, 250, s).face_weights[:, ARKIT_INDEX["eyeBlinkLeft"]] for s in range(12)])
    shut = lids > 0.95
    starts = shut & ~np.pad(shut, ((0, 0), (1, 0)))[:, :-1]
    assert (starts.sum(1) >= 2).all() and (starts.sum(1) <= 8).all()
    first = np.argmax(shut, 1)
    assert len(set(first.tolist())) >= 6


def test_feet_stand_still():
    played = perform(None, 50, 4, Style(sway=1.5))
    assert np.abs(played.translation[:, :2]).max() > 1e-3 and np.all(played.translation[:, 2] == 0)
    legs = played.rotvecs[:, BONE_INDEX["upperleg01.L"]] - relaxed_pose()[BONE_INDEX["upperleg01.L"]]
    # the leg (0.8 m, hanging) leans back by what the hips moved
    np.testing.assert_allclose(0.8 * legs[:, 1], played.translation[:, 0], atol=1e-4)
    np.testing.assert_allclose(-0.8 * legs[:, 0], played.translation[:, 1], atol=1e-4)


def test_gestures_come_with_stress_and_end_at_rest():
    speech = synthesize(
        "My brother plays the bass, my mother plays the piano, and I play nothing but the radio.", tail_s=2.0
    )
    arms = [BONE_INDEX[f"{b}.{s}"] for b in ("upperarm01", "lowerarm01") for s in "LR"]
    rest = relaxed_pose()[arms]
    lively, names = 0, set()
    for seed in range(6):
        played = perform(speech, speech.num_frames, seed, Style(gesture_energy=1.0))
        away = np.abs(played.rotvecs[:, arms] - rest).max((1, 2))
        lively += int(away.max() > 0.4)
        names |= {stroke.name for stroke in played.strokes}
        assert all(min(abs(stroke.time_s - t) for t in played.stresses) < 1e-9 for stroke in played.strokes)
        assert away[-3:].max() < 0.15, "arms hang again after the sentence"
    assert lively >= 5 and len(names) >= 5
    still = perform(speech, speech.num_frames, 0, Style(gesture_energy=0.0))
    assert np.abs(still.rotvecs[:, arms] - rest).max() < 0.12 and still.strokes == []


def test_hands_are_not_mirror_images(spoken):
    for seed in range(4):
        speech = spoken[0]
        played = perform(speech, speech.num_frames, seed, Style(gesture_energy=1.0))
        left = played.rotvecs[:, BONE_INDEX["lowerarm01.L"]]
        right = played.rotvecs[:, BONE_INDEX["lowerarm01.R"]] * np.array([1, -1, -1])
        assert np.abs(left - right).max() > 0.1


def test_motion_has_no_jumps(spoken):
    """Arms stay below what people can do, hand speed below 4 m/s: 0.45 m of forearm and hand."""
    for speech in spoken:
        played = perform(speech, speech.num_frames, 7, Style(gesture_energy=1.0))
        for bone in ("upperarm01.L", "upperarm01.R", "lowerarm01.L", "lowerarm01.R"):
            speed = np.linalg.norm(np.diff(played.rotvecs[:, BONE_INDEX[bone]], axis=0), axis=1) * 25
            assert speed.max() < 9.0, (bone, speed.max())


def test_arm_points_where_it_is_told():
    """Forward kinematics of the solved pose gives the asked directions."""
    from scipy.spatial.transform import Rotation

    arm = Arm(20, 15, (0.3, 0.9, 0.2), (0, 0, 1))
    chain = (
        "clavicle",
        "shoulder01",
        "upperarm01",
        "upperarm02",
        "lowerarm01",
        "lowerarm02",
        "wrist",
        "finger3-1",
    )
    rotvecs = dict(zip(LEFT_BONES, left_arm(arm), strict=True))
    heads = {name: np.array(LEFT_ARM_HEADS[name]) for name in chain}
    position, turn = heads[chain[0]], Rotation.identity()
    posed = {}
    for name, following in zip(chain, chain[1:], strict=False):
        turn = turn * Rotation.from_rotvec(rotvecs[name])
        posed[name] = position
        position = position + turn.apply(heads[following] - heads[name])
    forearm = posed["wrist"] - posed["lowerarm01"]
    upper = posed["lowerarm01"] - posed["upperarm01"]
    wanted_fore, wanted_upper = (
        np.array([0.3, -0.9, 0.2]),
        np.array([np.tan(np.radians(20)), -np.tan(np.radians(15)), -1]),
    )
    assert forearm @ wanted_fore / np.linalg.norm(forearm) / np.linalg.norm(wanted_fore) > 0.999
    assert upper @ wanted_upper / np.linalg.norm(upper) / np.linalg.norm(wanted_upper) > 0.999


def test_library_is_rich_and_mirrored():
    poses = {
        name: arm_pose(name) for g in GESTURES for name in (g.leading, g.other)
    }  # KeyError: no such pose
    assert len(poses) >= 11 and len(GESTURES) >= 10
    assert sum(g.leading != g.other for g in GESTURES) >= 10
    pose = place(arm_pose("offer"), arm_pose("offer"))
    left, right = pose[BONE_INDEX["lowerarm01.L"]], pose[BONE_INDEX["lowerarm01.R"]]
    np.testing.assert_allclose(right, left * [1, -1, -1])


def test_rest_is_the_stance_of_the_people():
    """The portrait and the performance share one neutral pose."""
    export = pytest.importorskip("avatar_core.procedural.people.anny_export")
    if not export.export_path().exists():
        pytest.skip("the body model is not exported yet")
    from avatar_core.procedural.people import load_body_model
    from avatar_core.procedural.people import relaxed_pose as people_pose

    assert load_body_model().bone_names == BONE_NAMES and load_body_model().action_names == ARKIT_NAMES
    np.testing.assert_allclose(relaxed_pose(), people_pose(), atol=1e-3)


def test_visemes():
    assert visemes_of("aɪ") == ["aa", "ih"] and visemes_of("pf") == ["PP", "FF"] and visemes_of("") == []
    assert visemes_of("ph") == ["PP"] and visemes_of("tɕh") == ["CH"] and visemes_of("ɔ̃") == ["oh"]
    assert shape_vector("PP")[JAW] == 0 and shape_vector("aa")[JAW] > 0.3


def test_every_phoneme_of_every_language_has_a_shape(spoken):
    for speech in spoken:
        for phoneme in speech.phonemes:
            assert not phoneme.ipa or visemes_of(phoneme.ipa), phoneme


def test_stress_times_keep_a_distance():
    phonemes = [Phoneme(t, t + 0.05, "a", True) for t in (0.0, 0.1, 0.25, 0.6)]
    assert stress_times(phonemes) == [0.0, 0.25, 0.6]


def test_noise_has_unit_deviation():
    draws = np.concatenate([smooth_noise(np.random.default_rng(i), 80, 0.5)[:, 0] for i in range(200)])
    assert 0.9 < draws.std() < 1.1


def test_styles_differ():
    assert sample_style(1) == sample_style(1) and sample_style(1) != sample_style(2)


def test_audible_recording_without_phonemes_is_refused():
    noise = (0.1 * np.sin(np.arange(16000) * 0.1)).astype(np.float32)
    with pytest.raises(UserError, match="phoneme times"):
        perform(Speech(noise, [], "", "", "tape"), 25, 0)
    quiet = perform(Speech(np.zeros(16000, np.float32), [], "", "", "tape"), 25, 0)
    assert quiet.face_weights[:, JAW].max() == 0
    with pytest.raises(UserError, match="num_frames"):
        perform(None, 0, 0)
