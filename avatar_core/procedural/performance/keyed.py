"""A second performer, written from other rules than `perform`: key poses and undershoot, restless hands, nods by phrases.

The mouth is eight articulators with a target for each sound, reached in its middle and joined by monotone cubics; a sound that
is too short falls short of its target (Lindblom 1963), where `perform` blends shapes by dominance. The head nods once a phrase
and wanders; hands are raised while there is speech and wander too, with no strokes.

T = pictures at 25 fps; 52 = ARKit weights; 104 = bones.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d

from avatar_core.clock import FPS
from avatar_core.procedural.performance.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar_core.procedural.performance.arms import LEFT_BONES, place, relaxed_pose
from avatar_core.procedural.performance.body import trunk
from avatar_core.procedural.performance.bones import BONE_INDEX
from avatar_core.procedural.performance.curves import bump, picture_times, smooth_noise
from avatar_core.procedural.performance.effort import STEP_S, effort_curve
from avatar_core.procedural.performance.face import (
    blink_curve,
    brow_weights,
    eye_weights,
    gaze,
    smile_weights,
)
from avatar_core.procedural.performance.perform import (
    Performance,
    Style,
    spoken_phonemes,
    stress_times,
)
from avatar_core.procedural.performance.phones import VISEMES, segments
from avatar_core.procedural.performance.poses import arm_pose
from avatar_core.procedural.performance.visemes import LEAD_S, Closure, closure_of
from avatar_core.speech.types import Phoneme, Speech

# what an articulator moves, a weight of ARKit a unit of it
ARTICULATORS: dict[str, dict[str, float]] = {
    "jaw": {"jawOpen": 1.0, "mouthLowerDownLeft": 0.25, "mouthLowerDownRight": 0.25},
    "upper": {"mouthUpperUpLeft": 1.0, "mouthUpperUpRight": 1.0},
    "lower": {"mouthLowerDownLeft": 1.0, "mouthLowerDownRight": 1.0},
    "spread": {
        "mouthStretchLeft": 0.7, "mouthStretchRight": 0.7, "mouthSmileLeft": 0.4, "mouthSmileRight": 0.4,
        "mouthDimpleLeft": 0.3, "mouthDimpleRight": 0.3,
    },
    "round": {"mouthPucker": 0.8, "mouthFunnel": 0.5},
    "press": {"mouthPressLeft": 0.8, "mouthPressRight": 0.8, "mouthRollLower": 0.3, "mouthRollUpper": 0.2},
    "tuck": {"mouthRollLower": 0.8, "mouthShrugLower": 0.3, "mouthUpperUpLeft": 0.3, "mouthUpperUpRight": 0.3},
    "tongue": {"tongueOut": 1.0},
}  # fmt: skip
TARGETS: dict[str, dict[str, float]] = {
    "sil": {"press": 0.12},
    "PP": {"press": 0.55},
    "FF": {"tuck": 0.75, "jaw": 0.08},
    "VB": {"round": 0.2, "jaw": 0.06},
    "TH": {"tongue": 0.25, "jaw": 0.16, "upper": 0.1},
    "DD": {"jaw": 0.13, "upper": 0.12, "lower": 0.1},
    "kk": {"jaw": 0.20, "lower": 0.08},
    "SS": {"jaw": 0.05, "spread": 0.3, "lower": 0.3, "upper": 0.2},
    "CH": {"jaw": 0.08, "round": 0.6, "lower": 0.15, "upper": 0.1},
    "RR": {"jaw": 0.14, "round": 0.4},
    "aa": {"jaw": 0.46, "upper": 0.12},
    "ah": {"jaw": 0.34, "upper": 0.1},
    "ax": {"jaw": 0.20},
    "E": {"jaw": 0.26, "spread": 0.35, "upper": 0.1},
    "ih": {"jaw": 0.13, "spread": 0.5, "lower": 0.15, "upper": 0.15},
    "oh": {"jaw": 0.26, "round": 0.5},
    "ou": {"jaw": 0.12, "round": 0.85},
    "uy": {"jaw": 0.12, "round": 0.8},
}
FULL_S = 0.13  # a sound as long as this reaches its target
SHUT_PLOSIVE_S = 0.03  # before the lips part again, shut at least as long
CLOSING_S = 0.2  # from the last sound to rest
HANDS_S = 0.8


def perform_keyed(speech: Speech | None, num_frames: int, seed: int, style: Style) -> Performance:
    """As `perform.perform`.

    Raises:
        UserError: audible speech without phoneme times.
    """
    phonemes = spoken_phonemes(speech)
    rngs = [np.random.default_rng([seed, 0x4B, stream]) for stream in range(6)]
    time = picture_times(num_frames)
    effort = effort_curve(speech.audio) if speech is not None else np.ones(1)
    weights, visemes, closures = _mouth(phonemes, num_frames, style.articulation, effort)

    begins = _phrases(phonemes)
    head = smooth_noise(rngs[0], num_frames, 0.9, 3) * np.array([1.8, 2.2, 1.2]) * style.head_turn
    for begin in begins:
        head[:, 0] += style.nod * rngs[0].uniform(2, 5) * bump(time, begin + 0.15, 0.25, 0.05, 0.5)
    rotvecs, translation, breath = trunk(rngs[1], num_frames, head, 0.6 * style.sway)
    rotvecs += _hands(phonemes, num_frames, rngs[2], style.gesture_energy)
    for bone in (BONE_INDEX["upperleg01.L"], BONE_INDEX["upperleg01.R"]):
        rotvecs[:, bone] += relaxed_pose()[bone]

    left, up = gaze(rngs[3], num_frames, 0.6 * style.gaze)
    weights += eye_weights(
        left - 0.8 * head[:, 1],
        up + 0.8 * head[:, 0],
        blink_curve(rngs[3], num_frames, style.blink_interval_s),
    )
    weights += brow_weights(rngs[4], num_frames, begins, 1.2 * style.brows, chance=0.7)
    weights += smile_weights(rngs[5], num_frames, style.smile)
    return Performance(
        np.clip(weights, 0, 1).astype(np.float32),
        rotvecs.astype(np.float32),
        translation.astype(np.float32),
        breath.astype(np.float32),
        style.stick,
        visemes,
        closures,
        [t for t in stress_times(phonemes) if t < num_frames / FPS],
        [],
    )


def _mouth(
    phonemes: list[Phoneme], num_frames: int, articulation: float, effort: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[Closure]]:
    """Weights (T, 52), visemes (T,) and closures."""
    names = list(ARTICULATORS)
    to_weights = np.zeros((len(names), len(ARKIT_NAMES)))
    for row, of in enumerate(ARTICULATORS.values()):
        for name, value in of.items():
            to_weights[row, ARKIT_INDEX[name]] = value
    rest = _target(names, "sil")
    times, keys = [-1.0], [rest]
    time = picture_times(num_frames)
    visemes = np.full(num_frames, VISEMES.index("sil"), np.int64)
    closures: list[Closure] = []
    for start, end, viseme, stressed in segments(phonemes):
        visemes[(time >= start) & (time < end)] = VISEMES.index(viseme)
        if viseme == "hh":  # breath takes the shape of what is round it
            continue
        target, hard = _target(names, viseme), viseme in ("PP", "FF")
        if hard:
            at = (start, max(end, start + SHUT_PLOSIVE_S))
            if viseme == "PP" and start < num_frames / FPS:
                closures.append(closure_of(start, end, num_frames))
        else:
            reached = min(1.0, (end - start) / FULL_S) if viseme != "sil" else 1.0
            middle = (start + end) / 2
            size = articulation * (1.2 if stressed else 0.9)
            if viseme != "sil" and len(effort):
                size *= effort[min(int(middle / STEP_S), len(effort) - 1)]
            target = keys[-1] + reached * (size * target - keys[-1])
            at = (start + min(0.05, middle - start), end - 0.05) if viseme == "sil" else (middle - LEAD_S,)
        for moment in at:
            if moment > times[-1] + 5e-3:
                times.append(moment)
                keys.append(target)
    times += [times[-1] + CLOSING_S, times[-1] + CLOSING_S + num_frames / FPS]
    keys += [rest, rest]
    curves = PchipInterpolator(np.array(times), np.stack(keys))
    weights = curves(time) @ to_weights
    shut = _target(names, "PP") @ to_weights
    for closure in closures:  # a picture that touches a closure shows it
        weights[closure.first_frame : closure.end_frame] = shut
    return weights, visemes, closures


def _target(names: list[str], viseme: str) -> np.ndarray:
    return np.array([TARGETS[viseme].get(name, 0.0) for name in names])


def _phrases(phonemes: list[Phoneme], pause_s: float = 0.18) -> list[float]:
    """When speech begins after a pause, seconds."""
    begins, last = [], -np.inf
    for p in phonemes:
        if p.ipa:
            if p.start_s - last > pause_s:
                begins.append(p.start_s)
            last = p.end_s
    return begins


def _hands(phonemes: list[Phoneme], num_frames: int, rng: np.random.Generator, energy: float) -> np.ndarray:
    """(T, 104, 3): both hands come up while there is speech, each to a pose of its own, and wander there."""
    time = picture_times(num_frames)
    speaking = np.zeros(num_frames)
    for p in phonemes:
        if p.ipa:
            speaking[(time >= p.start_s) & (time < p.end_s)] = 1
    raised = gaussian_filter1d(speaking, HANDS_S * FPS / 2, mode="nearest") * min(1.0, 1.2 * energy)
    arms = []
    for pose in rng.choice(["low", "offer", "hold", "weigh", "chest"], 2):
        rest, up = arm_pose("rest"), arm_pose(str(pose))
        size = np.clip(raised * (0.8 + 0.35 * smooth_noise(rng, num_frames, 0.6)[:, 0]), 0, 1.1)
        arm = rest + size[:, None, None] * (up - rest)
        for bone in ("upperarm01", "lowerarm01", "wrist"):
            wander = smooth_noise(rng, num_frames, 0.45, 3)
            arm[:, LEFT_BONES.index(bone)] += np.radians(4) * raised[:, None] * wander
        arms.append(arm)
    return place(arms[0], arms[1])
