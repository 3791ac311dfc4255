"""Rest expressions and stances: the relaxed standing pose and the neutral face."""

from __future__ import annotations

import math

import numpy as np

from avatar_core.procedural.people.body_model import load_body_model

NEUTRAL_FACE = {"eyeBlinkLeft": 0.05, "eyeBlinkRight": 0.05, "eyeSquintLeft": 0.06, "eyeSquintRight": 0.06}


def face_vector(weights: dict[str, float]) -> np.ndarray:
    """(52,) float32 vector from action name -> weight."""
    names = load_body_model().action_names
    out = np.zeros(len(names), np.float32)
    for name, value in weights.items():
        if name not in names:
            raise ValueError(f"unknown face action {name!r}")
        out[names.index(name)] = value
    return out


def neutral_face() -> np.ndarray:
    """(52,) resting face: lids a touch lowered (fully open lids look staring)."""
    return face_vector(NEUTRAL_FACE)


def finger_curl(degrees: float) -> dict[str, np.ndarray]:
    """Rotation vectors that curl fingers 2-5 towards the palm (bone -> (3,)); curl axis = phalanx x palm normal."""
    model = load_body_model()
    out: dict[str, np.ndarray] = {}
    for side in "LR":

        def head(bone: str, s: str = side) -> np.ndarray:
            return model.head(f"{bone}.{s}")

        palm = np.cross(head("finger2-1") - head("wrist"), head("finger5-1") - head("wrist"))
        palm /= np.linalg.norm(palm)
        for finger in "2345":
            axis = np.cross(head(f"finger{finger}-2") - head(f"finger{finger}-1"), palm)
            axis /= np.linalg.norm(axis)
            towards_thumb = (head("finger1-3") + head("finger1-2")) / 2 - head("finger3-1")
            sign = (
                1.0
                if np.cross(axis, head(f"finger{finger}-2") - head(f"finger{finger}-1")) @ towards_thumb > 0
                else -1.0
            )
            for joint, share in (("1", 1.0), ("2", 1.2), ("3", 0.7)):
                angle = math.radians(degrees * share * (0.75 + 0.12 * int(finger)))
                out[f"finger{finger}-{joint}.{side}"] = axis * sign * angle
    return out


def relaxed_pose() -> np.ndarray:
    """(104, 3) rotation vectors of the relaxed stance: arms about 25 degrees from the body, fingers slightly curled."""
    model = load_body_model()
    out = np.zeros((len(model.bone_names), 3))
    for side, sign in (("L", 1.0), ("R", -1.0)):
        for bone, degrees in (("upperarm01", 24), ("lowerarm01", 8), ("upperleg01", 5)):
            out[model.bone_names.index(f"{bone}.{side}")] = (0, sign * math.radians(degrees), 0)
    for bone, value in finger_curl(5).items():
        out[model.bone_names.index(bone)] = value
    return out
