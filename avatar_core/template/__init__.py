"""The template body: mesh, rig, face actions, shape space, landmarks and the particle layout."""

from avatar_core.template.layout import (
    DEFAULT_BUDGETS,
    FRAMES,
    REGIONS,
    ParticleLayout,
    make_layout,
    particle_weights,
)
from avatar_core.template.mesh import PARTS, Template, load_template
from avatar_core.template.pose import (
    KeypointTemplate,
    PosedTemplate,
    bone_transforms,
    keypoint_template,
    pose_template,
    relaxed_rotvecs,
    skin,
)

__all__ = [
    "DEFAULT_BUDGETS",
    "FRAMES",
    "PARTS",
    "REGIONS",
    "KeypointTemplate",
    "ParticleLayout",
    "PosedTemplate",
    "Template",
    "bone_transforms",
    "keypoint_template",
    "load_template",
    "make_layout",
    "particle_weights",
    "pose_template",
    "relaxed_rotvecs",
    "skin",
]
