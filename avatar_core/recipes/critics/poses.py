"""Random expressions and poses for the critics' data, wider than any performance: an instrument must not fail at
the edge of what the pipeline shows it.

Rotation vectors are deltas in world axes at the rest pose (X to the person's left, -Y front, Z up), radians.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Pose = dict[str, NDArray[np.float64]]


def random_expression(rng: np.random.Generator, names: Sequence[str]) -> NDArray[np.float32]:
    """Weights (52,) of the facial actions `names`: a random mouth, eyes that look about or blink, brows, cheeks."""
    weights = dict.fromkeys(names, 0.0)

    def put(name: str, value: float) -> None:
        if name in weights:
            weights[name] = float(np.clip(value, 0, 1))

    def both(name: str, value: float, spread: float = 0.1) -> None:
        put(name + "Left", value * (1 + rng.normal(0, spread)))
        put(name + "Right", value * (1 + rng.normal(0, spread)))

    kind = rng.choice(
        ["closed", "pressed", "open", "round", "wide", "any"], p=[0.15, 0.1, 0.25, 0.15, 0.15, 0.2]
    )
    jaw = float(rng.beta(1.2, 2.5)) * 0.65
    if kind == "closed":
        put("jawOpen", 0.03 * rng.random())
    elif kind == "pressed":
        both("mouthPress", rng.uniform(0.1, 0.5))
        put("mouthRollLower", rng.uniform(0, 0.3))
        put("mouthRollUpper", rng.uniform(0, 0.3))
    elif kind == "round":
        put("jawOpen", 0.7 * jaw)
        put("mouthPucker", rng.uniform(0, 0.85))
        put("mouthFunnel", rng.uniform(0, 0.7))
    else:
        put("jawOpen", jaw)
        both("mouthUpperUp", rng.uniform(0, 0.35))
        both("mouthLowerDown", rng.uniform(0, 0.45))
        if kind == "any":
            put("mouthClose", jaw * rng.random())
            put("mouthPucker", rng.uniform(0, 0.4))
            put("mouthShrugLower", rng.uniform(0, 0.3))
            put("mouthShrugUpper", rng.uniform(0, 0.2))
            put("tongueOut", max(0.0, rng.uniform(-0.6, 0.5)))
            put(str(rng.choice(["mouthLeft", "mouthRight", "jawLeft", "jawRight"])), rng.uniform(0, 0.3))
    if kind in ("wide", "open", "any"):
        both("mouthStretch", rng.uniform(0, 0.4 if kind == "wide" else 0.15))
        both("mouthSmile", rng.uniform(0, 0.6 if kind == "wide" else 0.25))
    if rng.random() < 0.15:
        both("mouthFrown", rng.uniform(0, 0.5))
    blink = rng.choice([0.05, rng.random(), 1.0], p=[0.6, 0.25, 0.15])
    both("eyeBlink", blink, 0.03)
    both("eyeSquint", rng.uniform(0, 0.3))
    if blink < 0.1 and rng.random() < 0.2:
        both("eyeWide", rng.uniform(0, 0.6))
    side, up = rng.normal(0, 0.25, 2)
    put("eyeLookInLeft" if side > 0 else "eyeLookOutLeft", abs(side))
    put("eyeLookOutRight" if side > 0 else "eyeLookInRight", abs(side))
    both("eyeLookUp" if up > 0 else "eyeLookDown", abs(up), 0.0)
    put("browInnerUp", max(0.0, rng.normal(0, 0.35)))
    both("browOuterUp", max(0.0, rng.normal(0, 0.3)))
    both("browDown", max(0.0, rng.normal(0, 0.3)))
    put("cheekPuff", max(0.0, rng.normal(-0.2, 0.3)))
    both("cheekSquint", max(0.0, rng.normal(0, 0.2)))
    return np.array([weights[name] for name in names], np.float32)


def random_head(rng: np.random.Generator, spread: float = 1.0) -> Pose:
    """Neck and head turns; `spread` 1 is about 20 degrees each way in yaw."""
    head = rng.normal(0, [0.12, 0.07, 0.22], 3) * spread
    return {"head": 0.6 * head, "neck01": 0.4 * head, "spine01": rng.normal(0, 0.03, 3) * spread}


def _curl(joints: Mapping[str, NDArray], side: str, rng: np.random.Generator) -> Pose:
    """Finger flexion about the axis across each phalanx and the palm normal; one curl a finger plus a spread."""
    pose: Pose = {}
    palm = np.cross(
        joints[f"finger2-1.{side}"] - joints[f"wrist.{side}"],
        joints[f"finger5-1.{side}"] - joints[f"wrist.{side}"],
    )
    palm /= np.linalg.norm(palm) + 1e-9
    base = rng.choice([0.1, 0.35, rng.uniform(-0.05, 0.9)])
    pointing = rng.random() < 0.15
    for finger in range(1, 6):
        curl = base + rng.normal(0, 0.12)
        if pointing and finger > 2:
            curl = rng.uniform(0.8, 1.2)
        bone = joints[f"finger{finger}-2.{side}"] - joints[f"finger{finger}-1.{side}"]
        axis = np.cross(bone, palm)
        axis /= np.linalg.norm(axis) + 1e-9
        # The sign that brings the finger toward the thumb side of the palm closes the hand.
        thumb = (joints[f"finger1-3.{side}"] + joints[f"finger1-2.{side}"]) / 2 - joints[f"finger3-1.{side}"]
        if np.dot(np.cross(axis, bone), thumb) < 0:
            axis = -axis
        for phalanx, share in ((1, 0.8), (2, 1.0), (3, 0.6)):
            pose[f"finger{finger}-{phalanx}.{side}"] = axis * curl * share * (0.5 if finger == 1 else 1.0)
    return pose


def random_body(rng: np.random.Generator, joints: Mapping[str, NDArray]) -> Pose:
    """Arms from hanging to raised before the chest, wrists, fingers and a little spine; `joints` at rest."""
    pose: Pose = random_head(rng, 0.7)
    pose["spine03"] = rng.normal(0, 0.04, 3)
    for side, sign in (("L", 1.0), ("R", -1.0)):
        raised = 0.0 if rng.random() < 0.25 else float(rng.random())
        upper = Rotation.from_euler("y", sign * (0.42 - 0.15 * raised) + rng.normal(0, 0.08))
        upper = Rotation.from_euler("x", -0.5 * raised + rng.normal(0, 0.15)) * upper
        lower = Rotation.from_euler("x", -1.3 * raised + rng.normal(0, 0.2) * raised)
        lower = Rotation.from_euler("z", -sign * (0.5 * raised + rng.normal(0, 0.35) * raised)) * lower
        pose[f"upperarm01.{side}"] = upper.as_rotvec()
        pose[f"lowerarm01.{side}"] = (lower * Rotation.from_euler("y", sign * 0.14)).as_rotvec()
        pose[f"lowerarm02.{side}"] = rng.normal(0, [0.0, 0.0, 0.25]) * raised
        pose[f"wrist.{side}"] = rng.normal(0, 0.25, 3)
        pose |= _curl(joints, side, rng)
    return pose
