"""Head and trunk: nods on stress, turns, sway, breathing; feet stay where they are.

T = pictures at 25 fps; rotation vectors per bone as in `bones`.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from avatar_core.procedural.performance.bones import BONE_INDEX, BONE_NAMES
from avatar_core.procedural.performance.curves import bump, picture_times, smooth_noise

_LEG_M = 0.80  # hip to ankle of the average person


def head_degrees(
    rng: np.random.Generator, num_frames: int, stresses: list[float], nod: float, turn: float
) -> np.ndarray:
    """(T, 3) the head's pitch (down +), turn (to the left +) and tilt in degrees."""
    time = picture_times(num_frames)
    slow = smooth_noise(rng, num_frames, 0.7, 3) * np.array([1.3, 2.6, 1.5]) * turn
    quick = smooth_noise(rng, num_frames, 0.25, 3) * np.array([0.35, 0.45, 0.3]) * turn
    degrees = slow + quick
    for stress in stresses:
        if rng.random() < 0.75:
            size = nod * rng.uniform(1.2, 4.2)
            # up a little before the stroke, down on it
            degrees[:, 0] += size * bump(time, stress + 0.06, 0.15, 0.03, 0.30)
            degrees[:, 0] -= 0.35 * size * bump(time, stress - 0.10, 0.16, 0.0, 0.14)
        if rng.random() < 0.15:  # now and then a sidewards emphasis
            degrees[:, 2] += nod * rng.normal(0, 2.0) * bump(time, stress, 0.25, 0.3, 0.5)
    return degrees


def trunk(
    rng: np.random.Generator, num_frames: int, head: np.ndarray, sway: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation vectors (T, 104, 3) of neck, head, spine, shoulders, legs; translation (T, 3) in metres; breath (T,), about -1..1.

    head: (T, 3) degrees from `head_degrees`, shared out over neck and head.
    """
    rotvecs = np.zeros((num_frames, len(BONE_NAMES), 3))

    def put(bone: str, pitch: np.ndarray, turn: np.ndarray, tilt: np.ndarray) -> None:
        angles = np.radians(np.stack([pitch, tilt, turn], 1))  # about X, Y, Z
        rotvecs[:, BONE_INDEX[bone]] = Rotation.from_euler("xyz", angles).as_rotvec()

    nothing = np.zeros(num_frames)
    put("neck01", 0.35 * head[:, 0], 0.35 * head[:, 1], 0.35 * head[:, 2])
    put("head", 0.65 * head[:, 0], 0.65 * head[:, 1], 0.65 * head[:, 2])

    slow = smooth_noise(rng, num_frames, 1.0, 4) * sway
    breath = _breath(rng, num_frames)
    put("spine04", 0.3 * slow[:, 0], 0.5 * slow[:, 1], 0.6 * slow[:, 2])
    put("spine02", 0.3 * slow[:, 0] - 0.35 * breath, 0.6 * slow[:, 1], 0.4 * slow[:, 2])
    put("spine01", -0.45 * breath, 0.5 * slow[:, 1] + 0.25 * head[:, 1], nothing)
    shrug = 0.8 * breath + 0.25 * slow[:, 3]
    put("clavicle.L", nothing, nothing, -shrug)
    put("clavicle.R", nothing, nothing, shrug)

    shift = smooth_noise(rng, num_frames, 1.2, 2) * sway * np.array([0.007, 0.004])
    translation = np.zeros((num_frames, 3))
    translation[:, :2] = shift
    roll, pitch = np.degrees(shift[:, 0] / _LEG_M), -np.degrees(shift[:, 1] / _LEG_M)
    for side in "LR":
        put(f"upperleg01.{side}", pitch, nothing, roll)
        put(f"foot.{side}", -pitch, nothing, -roll)
    # the hips stay level only to first order; the rest of the body follows the translation
    return rotvecs, translation, breath


def _breath(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """(T,) about -1..1: a breath every 3 to 5 s, starting anywhere, never quite regular."""
    rate = 1.0 / rng.uniform(3.0, 5.0)
    phase = 2 * np.pi * (rng.random() + rate * picture_times(num_frames))
    return np.sin(phase + 0.6 * smooth_noise(rng, num_frames, 1.5)[:, 0])
