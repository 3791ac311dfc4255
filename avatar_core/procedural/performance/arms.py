"""Arm and hand poses from a few understandable numbers: where the elbow, the forearm, the palm and the fingers point.

An arm is solved exactly on the rig's rest joints: the shoulder turns the upper arm's direction and the elbow's hinge onto
their targets, the elbow only flexes, the forearm turns the palm (spread over forearm and wrist, as radius and ulna do).
Half of the upper arm's own twist is left to its second bone, so that the shoulder's skin does not wring.

Poses are written for the left arm; the right arm is the mirror image (x -> -x). Rotation vectors per bone as in `bones`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from avatar_core.procedural.performance.bones import BONE_INDEX, BONE_NAMES, LEFT_ARM_HEADS

LEFT_BONES: tuple[str, ...] = tuple(LEFT_ARM_HEADS)  # without their ".L"
_ROW = {name: i for i, name in enumerate(LEFT_BONES)}
_HEADS = {name: np.array(head) for name, head in LEFT_ARM_HEADS.items()}
_PHALANX_SHARE = (1.0, 1.2, 0.7)


@dataclass(frozen=True)
class Hand:
    """Finger flexion in degrees at the knuckles (thumb, index, middle, ring, little) and how far they fan out."""

    thumb: float = 8.0
    index: float = 8.0
    middle: float = 9.0
    ring: float = 10.0
    little: float = 11.0
    spread: float = 0.0


@dataclass(frozen=True)
class Arm:
    """A left arm.

    out, forward: the upper arm's tilt from hanging, degrees to the side and to the front.
    forearm: direction (to the person's left, to the front, up).
    palm: the way the palm faces, same axes; None = as the forearm brings it.
    bend: wrist, degrees towards the palm; hand: the fingers; lift: shoulder, degrees up.
    """

    out: float
    forward: float
    forearm: tuple[float, float, float]
    palm: tuple[float, float, float] | None = None
    bend: float = 0.0
    hand: Hand = Hand()
    lift: float = 0.0


def left_arm(arm: Arm) -> np.ndarray:
    """(bones of `LEFT_BONES`, 3) rotation vectors of the left arm."""
    rotvecs = np.zeros((len(LEFT_BONES), 3))
    upper_rest = _unit(_HEADS["lowerarm01"] - _HEADS["upperarm01"])
    fore_rest = _unit(_HEADS["wrist"] - _HEADS["lowerarm01"])
    hinge_rest = _unit(np.cross(upper_rest, fore_rest))
    side, front = np.tan(np.radians(arm.out)), np.tan(np.radians(arm.forward))
    upper = _unit(np.array([side, -front, -1.0]))
    fore = _unit(_from_person(arm.forearm))

    girdle = Rotation.from_rotvec([0.0, -np.radians(arm.lift), 0.0])
    rotvecs[_ROW["clavicle"]] = girdle.as_rotvec()
    flexion = np.arccos(np.clip(upper @ fore, -1, 1)) - np.arccos(np.clip(upper_rest @ fore_rest, -1, 1))
    rest = np.stack([upper_rest, hinge_rest, np.cross(upper_rest, hinge_rest)], 1)
    hinge = _unit(np.cross(upper, fore))
    target = np.stack([upper, hinge, np.cross(upper, hinge)], 1)
    shoulder = girdle.inv() * Rotation.from_matrix(target @ rest.T)
    swing, twist = _swing_twist(shoulder, upper_rest)
    rotvecs[_ROW["upperarm01"]] = (swing * Rotation.from_rotvec(0.5 * twist * upper_rest)).as_rotvec()
    rotvecs[_ROW["upperarm02"]] = 0.5 * twist * upper_rest
    rotvecs[_ROW["lowerarm01"]] = flexion * hinge_rest

    carried = girdle * shoulder * Rotation.from_rotvec(flexion * hinge_rest)
    roll = 0.0
    if arm.palm is not None:
        has = carried.apply(_palm_normal())
        roll = _angle_about(fore, has, _from_person(arm.palm))
    rotvecs[_ROW["lowerarm02"]] = 0.55 * roll * fore_rest
    bend = Rotation.from_rotvec(np.radians(arm.bend) * _unit(np.cross(_hand_axis(), _palm_normal())))
    rotvecs[_ROW["wrist"]] = (Rotation.from_rotvec(0.45 * roll * fore_rest) * bend).as_rotvec()
    return rotvecs + fingers(arm.hand)


def fingers(hand: Hand) -> np.ndarray:
    """(bones of `LEFT_BONES`, 3) rotation vectors of the left fingers alone."""
    rotvecs = np.zeros((len(LEFT_BONES), 3))
    for finger, flexion in zip(
        "12345", (hand.thumb, hand.index, hand.middle, hand.ring, hand.little), strict=True
    ):
        axis = _curl_axis(finger)
        for joint, share in zip("123", _PHALANX_SHARE, strict=True):
            rotvecs[_ROW[f"finger{finger}-{joint}"]] = np.radians(flexion * share) * axis
    for finger, fan in zip("2345", (-1.0, -0.25, 0.5, 1.2), strict=True):
        row = _ROW[f"finger{finger}-1"]
        turned = Rotation.from_rotvec(np.radians(hand.spread * fan) * _fan_axis()) * Rotation.from_rotvec(
            rotvecs[row]
        )
        rotvecs[row] = turned.as_rotvec()
    return rotvecs


def place(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two arms written as left arms (..., len(LEFT_BONES), 3) -> a whole pose (..., 104, 3)."""
    pose = np.zeros((*left.shape[:-2], len(BONE_NAMES), 3))
    pose[..., [BONE_INDEX[f"{name}.L"] for name in LEFT_BONES], :] = left
    pose[..., [BONE_INDEX[f"{name}.R"] for name in LEFT_BONES], :] = mirror(right)
    return pose


def mirror(rotvecs: np.ndarray) -> np.ndarray:
    """Rotation vectors (..., 3) seen in a mirror at x = 0."""
    return rotvecs * np.array([1.0, -1.0, -1.0])


@lru_cache(maxsize=1)
def _relaxed_arm() -> np.ndarray:
    arm = np.zeros((len(LEFT_BONES), 3))
    arm[_ROW["upperarm01"]] = [0.0, np.radians(24), 0.0]
    arm[_ROW["lowerarm01"]] = [0.0, np.radians(8), 0.0]
    return arm + fingers(Hand(thumb=0.0, index=4.95, middle=5.55, ring=6.15, little=6.75))


def relaxed_arm() -> np.ndarray:
    """The arm of the shared neutral pose: hanging, 18 degrees from the body, elbow slightly bent, fingers at ease."""
    return _relaxed_arm().copy()


def relaxed_pose() -> np.ndarray:
    """(104, 3) the shared neutral pose: relaxed arms, feet under the hips."""
    pose = place(_relaxed_arm(), _relaxed_arm())
    pose[BONE_INDEX["upperleg01.L"]] = [0.0, np.radians(5), 0.0]
    pose[BONE_INDEX["upperleg01.R"]] = [0.0, -np.radians(5), 0.0]
    return pose


def _from_person(direction: tuple[float, float, float]) -> np.ndarray:
    """(left, front, up) -> world axes at rest (the person faces -Y)."""
    return np.array([direction[0], -direction[1], direction[2]], dtype=float)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@lru_cache(maxsize=1)
def _palm_normal() -> np.ndarray:
    """The way the left palm faces at rest."""
    across = np.cross(_HEADS["finger2-1"] - _HEADS["wrist"], _HEADS["finger5-1"] - _HEADS["wrist"])
    normal = _unit(across)
    thumb = (_HEADS["finger1-2"] + _HEADS["finger1-3"]) / 2 - _HEADS["finger3-1"]
    return normal if thumb @ normal > 0 else -normal


def _hand_axis() -> np.ndarray:
    return _unit(_HEADS["finger3-1"] - _HEADS["wrist"])


def _fan_axis() -> np.ndarray:
    """A positive turn about it moves a finger away from the thumb."""
    away = _HEADS["finger5-1"] - _HEADS["finger2-1"]
    normal = _palm_normal()
    return normal if np.cross(normal, _hand_axis()) @ away > 0 else -normal


def _curl_axis(finger: str) -> np.ndarray:
    """A positive turn about it closes the finger into the palm (the thumb: across it)."""
    along = _HEADS[f"finger{finger}-2"] - _HEADS[f"finger{finger}-1"]
    if finger == "1":
        across = _HEADS["finger4-1"] - _HEADS["finger1-2"]
        return _unit(np.cross(_HEADS["finger1-3"] - _HEADS["finger1-1"], across))
    return _unit(np.cross(along, _palm_normal()))


def _angle_about(axis: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """Signed angle from `start` to `end` about `axis`, both seen across it."""
    a, b = start - (start @ axis) * axis, end - (end @ axis) * axis
    return float(np.arctan2(axis @ np.cross(a, b), a @ b))


def _swing_twist(rotation: Rotation, axis: np.ndarray) -> tuple[Rotation, float]:
    """rotation = swing * twist about `axis`; returns the swing and the twist's angle in (-pi, pi]."""
    x, y, z, w = rotation.as_quat()
    along = float(np.array([x, y, z]) @ axis)
    angle = 2 * np.arctan2(along, w)
    angle = (angle + np.pi) % (2 * np.pi) - np.pi
    return rotation * Rotation.from_rotvec(-angle * axis), float(angle)
