"""The template body: mesh, rig, face actions, shape space and landmarks."""

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
    "PARTS",
    "KeypointTemplate",
    "PosedTemplate",
    "Template",
    "bone_transforms",
    "keypoint_template",
    "load_template",
    "pose_template",
    "relaxed_rotvecs",
    "skin",
]
