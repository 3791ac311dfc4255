"""The key poses of the hands, and the gestures made of them (after McNeill's beats and open-hand families).

Every pose is written for the left arm and mirrored for the right. A gesture names a pose for each hand; "rest" leaves the
arm hanging, "low" keeps it half raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from avatar_core.procedural.performance.arms import Arm, Hand, left_arm, relaxed_arm

_EASY = Hand(thumb=6, index=12, middle=16, ring=20, little=22, spread=2)
_OPEN = Hand(thumb=-4, index=4, middle=7, ring=9, little=8, spread=6)
_FLAT = Hand(thumb=4, index=3, middle=4, ring=5, little=6, spread=-5)
_CUP = Hand(thumb=10, index=22, middle=24, ring=26, little=26, spread=5)
_PINCH = Hand(thumb=22, index=40, middle=32, ring=24, little=18, spread=3)
_POINT = Hand(thumb=26, index=3, middle=58, ring=64, little=64, spread=-2)
_FIST = Hand(thumb=30, index=62, middle=66, ring=68, little=68, spread=-3)

_ARMS: dict[str, Arm] = {
    # elbow out, elbow forward, forearm (left, front, up), palm (left, front, up)
    "low": Arm(16, 6, (-0.10, 0.92, -0.20), (-0.85, 0.0, 0.35), 6, _EASY),
    "offer": Arm(14, 14, (0.30, 0.92, 0.02), (-0.25, 0.10, 1.0), -8, _OPEN),
    "offer_wide": Arm(18, 8, (0.38, 0.88, 0.12), (0.10, 0.25, 1.0), -10, _OPEN),
    "weigh": Arm(14, 20, (0.16, 0.90, 0.34), (-0.40, -0.10, 1.0), 4, _CUP),
    "chop": Arm(14, 16, (-0.14, 0.92, 0.26), (-1.0, 0.0, 0.10), 0, _FLAT),
    "press": Arm(20, 16, (-0.10, 0.97, 0.02), (0.0, 0.20, -1.0), -12, _FLAT),
    "hold": Arm(20, 14, (-0.20, 0.88, 0.22), (-0.95, 0.10, 0.10), 8, _CUP),
    "point": Arm(14, 24, (-0.06, 0.80, 0.52), (-0.80, 0.0, -0.45), 0, _POINT),
    "pinch": Arm(14, 22, (-0.02, 0.66, 0.70), (-0.75, 0.55, 0.0), 10, _PINCH),
    "raise": Arm(18, 16, (0.20, 0.52, 0.82), (-0.55, 0.75, 0.10), -6, _OPEN),
    "chest": Arm(24, 16, (-0.66, 0.66, 0.30), (-0.25, -1.0, 0.0), 12, _EASY),
    "fist": Arm(14, 18, (-0.08, 0.84, 0.44), (-0.90, 0.0, -0.10), 0, _FIST),
    "sweep": Arm(22, 14, (0.34, 0.80, 0.42), (-0.50, 0.55, 0.60), -6, _OPEN),
}


@dataclass(frozen=True)
class Gesture:
    """Poses of the leading and of the other hand; `weight` is how often it is chosen."""

    name: str
    leading: str
    other: str
    weight: float = 1.0


GESTURES: tuple[Gesture, ...] = (
    Gesture("offer", "offer", "low", 1.2),
    Gesture("offer both", "offer", "offer", 0.8),
    Gesture("open wide", "offer_wide", "offer", 0.7),
    Gesture("weigh", "weigh", "low", 1.0),
    Gesture("balance", "weigh", "offer", 0.7),
    Gesture("chop", "chop", "low", 1.0),
    Gesture("frame", "hold", "hold", 1.0),
    Gesture("calm down", "press", "press", 0.6),
    Gesture("point", "point", "rest", 0.6),
    Gesture("precise", "pinch", "low", 1.0),
    Gesture("remark", "raise", "rest", 0.8),
    Gesture("me", "chest", "rest", 0.6),
    Gesture("resolve", "fist", "low", 0.6),
    Gesture("sweep", "sweep", "low", 0.7),
    Gesture("one side", "offer_wide", "rest", 0.8),
    Gesture("measure", "chop", "hold", 0.6),
)


@lru_cache(maxsize=1)
def _library() -> dict[str, np.ndarray]:
    return {"rest": relaxed_arm()} | {name: left_arm(arm) for name, arm in _ARMS.items()}


def arm_pose(name: str) -> np.ndarray:
    """(len(arms.LEFT_BONES), 3) rotation vectors of a named pose, as a left arm."""
    return _library()[name].copy()
