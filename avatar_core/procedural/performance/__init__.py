"""Performance: speech -> curves of face, head, trunk, arms and fingers (the procedural teacher's actor)."""

from avatar_core.procedural.performance.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar_core.procedural.performance.arms import relaxed_pose
from avatar_core.procedural.performance.bones import BONE_INDEX, BONE_NAMES
from avatar_core.procedural.performance.keyed import perform_keyed
from avatar_core.procedural.performance.perform import Performance, Style, perform, sample_style, stress_times
from avatar_core.procedural.performance.phones import VISEMES, visemes_of
from avatar_core.procedural.performance.visemes import Closure, mouth_curves, shape_vector

__all__ = [
    "ARKIT_INDEX",
    "ARKIT_NAMES",
    "BONE_INDEX",
    "BONE_NAMES",
    "VISEMES",
    "Closure",
    "Performance",
    "Style",
    "mouth_curves",
    "perform",
    "perform_keyed",
    "relaxed_pose",
    "sample_style",
    "shape_vector",
    "stress_times",
    "visemes_of",
]
