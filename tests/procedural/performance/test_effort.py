"""Openings follow the loudness of the voice, and come before the sound."""

import numpy as np
import pytest

from avatar_core.procedural.performance.arkit import ARKIT_INDEX
from avatar_core.procedural.performance.effort import effort_curve
from avatar_core.procedural.performance.visemes import mouth_curves
from avatar_core.speech.types import Phoneme


def _swelling(seconds: float = 4.0) -> np.ndarray:
    time = np.arange(round(seconds * 16000)) / 16000
    return (np.sin(2 * np.pi * 150 * time) * np.where(time < seconds / 2, 0.05, 0.4)).astype(np.float32)


def test_effort_is_larger_where_the_voice_is_louder_at_any_level():
    voice = _swelling()
    effort = effort_curve(voice)
    assert len(effort) == 400
    assert effort[250:350].mean() > 1.25 * effort[50:150].mean()
    np.testing.assert_allclose(effort_curve(voice * 0.01), effort, atol=1e-3)


@pytest.mark.parametrize("audio", [np.zeros(16000, np.float32), np.zeros(0, np.float32)])
def test_silence_has_no_effort_of_its_own(audio: np.ndarray):
    assert (effort_curve(audio) == 1).all()


def test_effort_scales_vowels_and_leaves_closures():
    phonemes = [Phoneme(0.2, 0.5, "a", False), Phoneme(0.5, 0.6, "m", False), Phoneme(0.6, 0.9, "a", False)]
    jaw = ARKIT_INDEX["jawOpen"]
    plain, half = (mouth_curves(phonemes, 25, 1.0, np.full(100, e)).weights[:, jaw] for e in (1.0, 0.5))
    assert half[8] == pytest.approx(0.5 * plain[8], rel=0.02)
    assert half[13] == pytest.approx(plain[13], abs=0.02)


def test_lips_are_ahead_of_the_sound():
    vowel = [Phoneme(0.0, 0.4, "", False), Phoneme(0.4, 0.6, "a", False), Phoneme(0.6, 1.0, "", False)]
    jaw = mouth_curves(vowel, 25).weights[:, ARKIT_INDEX["jawOpen"]]
    middle = ((np.arange(25) + 0.5) / 25 * jaw).sum() / jaw.sum()
    assert 0.43 < middle < 0.48  # the sound's own middle is at 0.5 s
