"""The second performer: closures close, other rules than the first's, the same again from the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.procedural.performance import perform, perform_keyed, sample_style
from avatar_core.procedural.performance.arkit import ARKIT_INDEX
from avatar_core.speech.types import Phoneme, Speech

JAW = ARKIT_INDEX["jawOpen"]


def speech(sounds="mapisobufatəma", each=0.11):
    at = 0.2 + each * np.arange(len(sounds))
    phonemes = [Phoneme(float(s), float(s + each), ipa, ipa == "a") for ipa, s in zip(sounds, at)]
    noise = np.random.default_rng(0).normal(0, 0.1, 640 * int((at[-1] + 0.6) * 25)).astype(np.float32)
    return Speech(noise, phonemes, "", "en", "noise")


def test_every_closure_is_shut_and_open_sounds_are_open():
    said = speech()
    played = perform_keyed(said, said.num_frames, 3, sample_style(1))
    assert len(played.closures) == 4  # m p b m
    for closure in played.closures:
        assert played.face_weights[closure.first_frame : closure.end_frame, JAW].max() < 0.02
    assert played.face_weights[:, JAW].max() > 0.25
    assert played.face_weights[-1, JAW] < 0.05 and np.isfinite(played.rotvecs).all()


def test_it_is_the_same_again_and_not_the_other_performer():
    said, style = speech(), sample_style(1)
    one, two = (perform_keyed(said, said.num_frames, 3, style) for _ in range(2))
    other = perform(said, said.num_frames, 3, style)
    np.testing.assert_array_equal(one.face_weights, two.face_weights)
    np.testing.assert_array_equal(one.rotvecs, two.rotvecs)
    agree = np.corrcoef(one.face_weights[:, JAW], other.face_weights[:, JAW])[0, 1]
    assert 0.4 < agree < 0.99  # the same sentence, other rules
    assert np.abs(one.rotvecs - other.rotvecs).max() > 0.1


def test_a_short_sound_falls_short_of_its_target():
    long, short = (speech("atatat", each) for each in (0.2, 0.06))
    opened = [
        perform_keyed(s, s.num_frames, 0, sample_style(2)).face_weights[:, JAW].max() for s in (long, short)
    ]
    assert opened[1] < 0.8 * opened[0]


def test_an_audible_recording_without_phonemes_is_refused():
    with pytest.raises(UserError, match="phoneme times"):
        perform_keyed(replace(speech(), phonemes=[]), 10, 0, sample_style(0))
