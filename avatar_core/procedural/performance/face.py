"""What the face does besides speaking: blinks, gaze, brows, the trace of a smile.

T = pictures at 25 fps.
"""

from __future__ import annotations

import numpy as np

from avatar_core.clock import FPS
from avatar_core.procedural.performance.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar_core.procedural.performance.curves import bump, picture_times, smooth_noise

EYE_DEGREES = 30.0  # about what a weight of 1 of an eyeLook action turns the eye
_LID_REST = 0.05
_SQUINT_REST = 0.06


def blink_times(rng: np.random.Generator, duration_s: float, interval_s: tuple[float, float]) -> list[float]:
    """Moments of closed eyes: a random wait for the first, then `interval_s` apart, now and then a double blink."""
    times: list[float] = []
    now = rng.uniform(0.2, interval_s[1])
    while now < duration_s:
        times.append(now)
        now += 0.32 if rng.random() < 0.08 else rng.uniform(*interval_s)
    return times


def blink_curve(rng: np.random.Generator, num_frames: int, interval_s: tuple[float, float]) -> np.ndarray:
    """(T,) 0 open .. 1 shut; every blink reaches 1 on a picture, closing twice as fast as opening."""
    time = picture_times(num_frames)
    curve = np.zeros(num_frames)
    for moment in blink_times(rng, num_frames / FPS, interval_s):
        moment = (np.floor(moment * FPS) + 0.5) / FPS
        curve = np.maximum(curve, bump(time, moment, 0.10, rng.uniform(0.0, 0.05), rng.uniform(0.16, 0.22)))
    return curve


def gaze(rng: np.random.Generator, num_frames: int, amount: float) -> tuple[np.ndarray, np.ndarray]:
    """(T,), (T,) degrees to the person's left and up: fixations of 0.4 to 2 s, mostly on the viewer, quick jumps."""
    left, up = np.zeros(num_frames), np.zeros(num_frames)
    frame = -int(rng.integers(0, 20))
    away = False
    while frame < num_frames:
        away = not away and rng.random() < 0.4
        aim = (
            (rng.normal(0, 7.0), rng.normal(-1.0, 4.0)) if away else (rng.normal(0, 0.8), rng.normal(0, 0.6))
        )
        length = int(FPS * (rng.uniform(0.3, 0.9) if away else rng.uniform(0.6, 2.2)))
        left[max(frame, 0) :], up[max(frame, 0) :] = aim[0] * amount, aim[1] * amount
        if 0 <= frame < num_frames:  # a jump takes 30 to 60 ms: one picture halfway
            before = max(frame - 1, 0)
            left[frame] = 0.35 * left[before] + 0.65 * left[frame]
            up[frame] = 0.35 * up[before] + 0.65 * up[frame]
        frame += max(length, 3)
    return left, up


def eye_weights(left_deg: np.ndarray, up_deg: np.ndarray, blink: np.ndarray) -> np.ndarray:
    """(T, 52) of the eyes and lids alone; the upper lid follows a look down."""
    weights = np.zeros((len(blink), len(ARKIT_NAMES)))

    def put(name: str, values: np.ndarray) -> None:
        weights[:, ARKIT_INDEX[name]] = np.clip(values, 0.0, 1.0)

    side, height = left_deg / EYE_DEGREES, up_deg / EYE_DEGREES
    put("eyeLookOutLeft", side)
    put("eyeLookInRight", side)
    put("eyeLookInLeft", -side)
    put("eyeLookOutRight", -side)
    lid = np.maximum(_LID_REST + 0.35 * np.clip(-height, 0, 1), blink)
    for eye in ("Left", "Right"):
        put("eyeLookUp" + eye, height)
        put("eyeLookDown" + eye, -height)
        put("eyeBlink" + eye, lid)
        put("eyeSquint" + eye, np.full(len(blink), _SQUINT_REST))
    return weights


def brow_weights(
    rng: np.random.Generator, num_frames: int, stresses: list[float], amount: float, chance: float = 0.4
) -> np.ndarray:
    """(T, 52): brows go up on some stressed syllables, rarely one more than the other, and drift in between."""
    time = picture_times(num_frames)
    weights = np.zeros((num_frames, len(ARKIT_NAMES)))
    raise_, lean = np.zeros(num_frames), np.zeros(num_frames)
    for stress in stresses:
        if rng.random() < chance:
            curve = rng.uniform(0.4, 1.0) * bump(time, stress, 0.16, rng.uniform(0.03, 0.25), 0.34)
            raise_ = np.maximum(raise_, curve)
            lean += curve * rng.normal(0, 0.25)
    drift = smooth_noise(rng, num_frames, 0.9)[:, 0]
    inner = 0.06 + amount * (0.34 * raise_ + 0.03 * drift)
    outer = amount * (0.26 * raise_ + 0.02 * drift)
    frown = np.clip(amount * 0.05 * smooth_noise(rng, num_frames, 1.2)[:, 0], 0, 1) * (1 - raise_)
    for name, values in (
        ("browInnerUp", inner),
        ("browOuterUpLeft", outer * (1 + lean)),
        ("browOuterUpRight", outer * (1 - lean)),
        ("browDownLeft", frown),
        ("browDownRight", frown),
    ):
        weights[:, ARKIT_INDEX[name]] = np.clip(values, 0.0, 1.0)
    return weights


def smile_weights(rng: np.random.Generator, num_frames: int, amount: float) -> np.ndarray:
    """(T, 52): a slight smile that comes and goes over seconds, a little stronger on one side."""
    level = np.clip(amount * (1.0 + 0.4 * smooth_noise(rng, num_frames, 1.5)[:, 0]), 0.0, 0.5)
    tilt = 0.15 * rng.standard_normal()
    weights = np.zeros((num_frames, len(ARKIT_NAMES)))
    weights[:, ARKIT_INDEX["mouthSmileLeft"]] = level * (1 + tilt)
    weights[:, ARKIT_INDEX["mouthSmileRight"]] = level * (1 - tilt)
    weights[:, ARKIT_INDEX["cheekSquintLeft"]] = 0.4 * level
    weights[:, ARKIT_INDEX["cheekSquintRight"]] = 0.4 * level
    return weights
