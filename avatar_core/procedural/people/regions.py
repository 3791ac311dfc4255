"""Where things are on the template body: limb coordinates, landmark heights, scalp line.

All clothes and skin recipes are written in template space (the neutral body of `BodyModel.neutral`), so they follow every
identity. Heights are metres in that space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from avatar_core.procedural.people.anny_export import BODY_VERTICES
from avatar_core.procedural.people.body_model import BodyModel, load_body_model
from avatar_core.procedural.people.noise import smoothstep


@dataclass(frozen=True)
class Regions:
    """Per-vertex masks (V,) and template landmarks."""

    arm: np.ndarray  # -1 off the arm, else 0 shoulder, 1 elbow, 2 wrist and beyond
    hand: np.ndarray  # skin weight of the hands
    foot: np.ndarray
    head: np.ndarray  # skin weight of head, eyes and upper neck
    neck: np.ndarray
    z: dict[str, float]  # neck, shoulder, hip, knee, ankle, floor
    neck_y: float
    head_y: float
    eye: dict[str, np.ndarray]  # "l", "r" -> eyeball centre
    lips: np.ndarray  # centre of the lips


def _weight_of(model: BodyModel, belongs: Callable[[str], bool]) -> np.ndarray:
    chosen = np.array([bool(belongs(name)) for name in model.bone_names])
    return (model.weights * chosen[model.weights_index]).sum(1)


def _along_arm(points: np.ndarray, shoulder: np.ndarray, elbow: np.ndarray, wrist: np.ndarray) -> np.ndarray:
    upper = ((points - shoulder) @ (elbow - shoulder)) / ((elbow - shoulder) @ (elbow - shoulder))
    lower = ((points - elbow) @ (wrist - elbow)) / ((wrist - elbow) @ (wrist - elbow))
    return np.where(upper < 1, upper, 1 + np.maximum(lower, 0))


@lru_cache(maxsize=1)
def regions() -> Regions:
    """Template regions (computed once)."""
    model = load_body_model()
    points = model.neutral.astype(np.float64)
    prefixes = ("upperarm", "lowerarm", "wrist", "finger", "metacarpal")
    arm = np.full(len(points), -1.0)
    hand = np.zeros(len(points))
    for side in "LR":
        weight = _weight_of(model, lambda b, s=side: b.endswith("." + s) and b.startswith(prefixes))
        along = _along_arm(
            points, *(model.head(f"{b}.{side}") for b in ("upperarm01", "lowerarm01", "wrist"))
        )
        arm = np.where(weight > 0.5, np.maximum(along, 0.0), arm)
        arm = np.where((weight > 0.02) & (weight <= 0.5), -0.3 + 0.6 * weight, arm)
        hand += weight * (along > 1.98)
    eye = {s: points[np.unique(model.quads[f"helper-{s}-eye"])].mean(0) for s in "lr"}
    return Regions(
        arm=arm,
        hand=hand,
        foot=_weight_of(model, lambda b: b.startswith(("foot", "toe"))),
        head=_weight_of(model, lambda b: b in ("head", "eye.L", "eye.R", "neck03")),
        neck=_weight_of(model, lambda b: b.startswith("neck") or b in ("head", "eye.L", "eye.R")),
        z={
            "neck": model.head("neck01")[2],
            "shoulder": model.head("upperarm01.L")[2],
            "hip": model.head("upperleg01.L")[2],
            "knee": model.head("lowerleg01.L")[2],
            "ankle": model.head("foot.L")[2],
            "floor": float(points[:BODY_VERTICES, 2].min()),
        },
        neck_y=float(model.head("neck01")[1]),
        head_y=float(model.head("head")[1]),
        eye=eye,
        lips=model.position_map[model.masks["lips"] > 0.6].mean(0),
    )


def scalp(points: np.ndarray, receding: float = 0.0) -> np.ndarray:
    """1 inside the hairline, 0 outside, for template-space points (..., 3). receding: metres the hairline moves up."""
    r = regions()
    eye = r.eye["l"]
    x, z = points[..., 0], points[..., 2]
    back = points[..., 1] - eye[1]  # 0 at the eyes, growing to the back
    line = eye[2] + 0.066 + receding - 0.035 * smoothstep(0.02, 0.06, back)
    line = line - 0.055 * smoothstep(0.045, 0.075, back) - 0.045 * smoothstep(0.09, 0.14, back)
    line = line + 0.006 * np.cos(x * 60) * (back < 0.04)
    return smoothstep(-0.006, 0.006, z - line)


@lru_cache(maxsize=1)
def limb_maps() -> tuple[np.ndarray, np.ndarray]:
    """Hand and foot weight of every texel of the skin texture, two (1024, 1024) float32 arrays."""
    from scipy.spatial import KDTree

    model, r = load_body_model(), regions()
    size = model.position_map.shape[0]
    coarse = model.position_map[::4, ::4]  # smooth masks: a quarter of the resolution is enough
    _, nearest = KDTree(model.neutral[:BODY_VERTICES], leafsize=16).query(coarse.reshape(-1, 3))
    maps = []
    for value in (r.hand, r.foot):
        small = value[:BODY_VERTICES][nearest].reshape(coarse.shape[:2]).astype(np.float32)
        maps.append(np.repeat(np.repeat(small, 4, 0), 4, 1)[:size, :size])
    return maps[0], maps[1]
