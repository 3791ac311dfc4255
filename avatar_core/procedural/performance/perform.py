"""From a sentence to everything a body does while saying it.

`perform` turns phoneme times into mouth curves and adds what speakers do besides: blinks, gaze, brows and nods on stressed
syllables, beat gestures, breathing, sway. Whatever is not tied to the speech comes from noise without any fixed phase, so
that nothing but the sound predicts the motion. Without speech it gives idle motion with the mouth shut.

T = pictures at 25 fps; 52 = ARKit weights (`arkit`); 104 = bones (`bones`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from avatar_core.clock import FPS
from avatar_core.errors import UserError
from avatar_core.procedural.performance.arkit import ARKIT_INDEX
from avatar_core.procedural.performance.arms import relaxed_pose
from avatar_core.procedural.performance.body import head_degrees, trunk
from avatar_core.procedural.performance.bones import BONE_INDEX
from avatar_core.procedural.performance.effort import effort_curve
from avatar_core.procedural.performance.face import (
    blink_curve,
    brow_weights,
    eye_weights,
    gaze,
    smile_weights,
)
from avatar_core.procedural.performance.gestures import Stroke, gesture_arms
from avatar_core.procedural.performance.visemes import Closure, mouth_curves
from avatar_core.speech.types import Phoneme, Speech

_AUDIBLE_RMS = 1e-3
LEFT_MOUTH, RIGHT_MOUTH = (
    [ARKIT_INDEX[f"mouth{what}{side}"] for what in ("Smile", "Stretch", "LowerDown", "UpperUp")]
    for side in ("Left", "Right")
)
PRESSED = [ARKIT_INDEX[name] for name in ("mouthPressLeft", "mouthPressRight")]


@dataclass(frozen=True)
class Style:
    """One person's manner; 1 is average everywhere but `smile` (0 = serious) and `lead_left` (probability)."""

    gesture_energy: float = 0.8
    nod: float = 1.0
    head_turn: float = 1.0
    brows: float = 1.0
    gaze: float = 1.0
    smile: float = 0.06
    articulation: float = 1.0
    sway: float = 1.0
    blink_interval_s: tuple[float, float] = (2.0, 4.0)
    lead_left: float = 0.4
    press: float = 1.0
    lopsided: float = 0.0  # the left side of the mouth moves by that share more, the right side less
    stick: float = 0.5  # how much corners of lips stick as they part, 0..1


@dataclass(frozen=True)
class Performance:
    """face_weights (T, 52) and rotvecs (T, 104, 3) float32, translation (T, 3) float32 metres.

    breath (T,), about -1..1; stick: the person's.

    For evaluation: visemes (T,) index into `phones.VISEMES`; closures of p, b, m; stress times in seconds; gesture strokes.
    """

    face_weights: np.ndarray
    rotvecs: np.ndarray
    translation: np.ndarray
    breath: np.ndarray
    stick: float
    visemes: np.ndarray
    closures: list[Closure] = field(default_factory=list)
    stresses: list[float] = field(default_factory=list)
    strokes: list[Stroke] = field(default_factory=list)


def sample_style(seed: int) -> Style:
    """A person's manner drawn at random; the same seed gives the same manner."""
    rng = np.random.default_rng([seed, 0x57])
    return Style(
        gesture_energy=float(rng.uniform(0.55, 1.0)),
        nod=float(rng.uniform(0.6, 1.4)),
        head_turn=float(rng.uniform(0.7, 1.3)),
        brows=float(rng.uniform(0.6, 1.3)),
        gaze=float(rng.uniform(0.7, 1.2)),
        smile=float(rng.uniform(0.02, 0.12)),
        articulation=float(rng.uniform(0.9, 1.1)),
        sway=float(rng.uniform(0.7, 1.3)),
        blink_interval_s=(float(rng.uniform(1.8, 2.4)), float(rng.uniform(3.4, 4.6))),
        lead_left=float(rng.choice([0.25, 0.35, 0.7])),
        press=float(rng.uniform(0.7, 1.4)),
        lopsided=float(np.clip(rng.normal(0, 0.12), -0.25, 0.25)),
        stick=float(rng.uniform(0.1, 0.9)),
    )


def perform(speech: Speech | None, num_frames: int, seed: int, style: Style | None = None) -> Performance:
    """Play `num_frames` pictures of `speech` (None: idle, mouth shut).

    The face weights add to the neutral face and the pose is absolute (its rest is `arms.relaxed_pose`).

    Raises:
        UserError: audible speech without phoneme times, or num_frames < 1.
    """
    if num_frames < 1:
        raise UserError(f"num_frames: expected at least 1, found {num_frames}")
    style = style or Style()
    phonemes = spoken_phonemes(speech)
    mouth_rng, eye_rng, brow_rng, head_rng, trunk_rng, arm_rng = (
        np.random.default_rng([seed, 0x9E, stream]) for stream in range(6)
    )
    length_s = num_frames / FPS
    stresses = [t for t in stress_times(phonemes) if t < length_s]
    effort = effort_curve(speech.audio) if speech is not None else None
    mouth = mouth_curves(phonemes, num_frames, style.articulation, effort)
    mouth.weights[:, PRESSED] *= style.press
    mouth.weights[:, LEFT_MOUTH] *= 1 + style.lopsided
    mouth.weights[:, RIGHT_MOUTH] *= 1 - style.lopsided

    head = head_degrees(head_rng, num_frames, stresses, style.nod, style.head_turn)
    rotvecs, translation, breath = trunk(trunk_rng, num_frames, head, style.sway)
    spoken_until = max((p.end_s for p in phonemes if p.ipa), default=0.0)
    arms, strokes = gesture_arms(
        stresses, spoken_until, num_frames, arm_rng, style.gesture_energy, style.lead_left
    )
    rotvecs += arms
    for bone in (BONE_INDEX["upperleg01.L"], BONE_INDEX["upperleg01.R"]):
        rotvecs[:, bone] += relaxed_pose()[bone]

    left, up = gaze(eye_rng, num_frames, style.gaze)
    # the eyes stay on their target while the head moves under them
    left, up = left - 0.8 * head[:, 1], up + 0.8 * head[:, 0]
    weights = mouth.weights + eye_weights(left, up, blink_curve(eye_rng, num_frames, style.blink_interval_s))
    weights += brow_weights(brow_rng, num_frames, stresses, style.brows)
    weights += smile_weights(mouth_rng, num_frames, style.smile)
    return Performance(
        np.clip(weights, 0.0, 1.0).astype(np.float32),
        rotvecs.astype(np.float32),
        translation.astype(np.float32),
        breath.astype(np.float32),
        style.stick,
        mouth.visemes,
        mouth.closures,
        stresses,
        strokes,
    )


def stress_times(phonemes: list[Phoneme], closest_s: float = 0.18) -> list[float]:
    """When stressed vowels begin, seconds, ascending; of two closer than `closest_s` the first counts."""
    times: list[float] = []
    for phoneme in phonemes:
        if phoneme.stress and (not times or phoneme.start_s - times[-1] >= closest_s):
            times.append(phoneme.start_s)
    return times


def spoken_phonemes(speech: Speech | None) -> list[Phoneme]:
    """Those of a speech, none of silence. Raises UserError for audible speech without phoneme times."""
    if speech is None:
        return []
    if not speech.phonemes and float(np.sqrt(np.mean(np.square(speech.audio)))) > _AUDIBLE_RMS:
        name = speech.voice or "speech"
        raise UserError(
            f"{name}: expected phoneme times for an audible recording, found none; put <name>.json beside the sound"
        )
    return speech.phonemes
