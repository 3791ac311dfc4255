"""From the pose of a portrait to the canonical one.

Legend: N base particles, S shell particles, B bones.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]
from scipy.spatial.transform import Rotation

from avatar_core.particles.background import Backdrop
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.layout import ParticleLayout, particle_weights
from avatar_core.personalise.appearance import PortraitParticles
from avatar_core.personalise.portrait_pose import PortraitPose
from avatar_core.template.mesh import Template
from avatar_core.template.pose import bone_transforms, relaxed_rotvecs

NEIGHBOURS = 8


def unpose(
    template: Template,
    layout: ParticleLayout,
    particles: PortraitParticles,
    pose: PortraitPose,
    pixel: float,
    background: Backdrop,
    freedom: np.ndarray,
) -> Canonical:
    """Carry particles from the portrait's pose and expression to the canonical one by inverse skinning."""
    vertices, heads = template.rest(pose.shape)
    posed = bone_transforms(heads, pose.rotvecs, None, template)
    relaxed = bone_transforms(heads, relaxed_rotvecs(template), None, template)
    weights = particle_weights(template, layout)[particles.anchor]
    blend_posed = np.einsum("nb,bij->nij", weights, posed)
    blend_relaxed = np.einsum("nb,bij->nij", weights, relaxed)
    inverse = np.linalg.inv(blend_posed[:, :, :3])
    at_rest = np.einsum("nij,nj->ni", inverse, particles.means - blend_posed[:, :, 3])
    expression = layout.points(template.add_actions(vertices, pose.face_weights) - vertices)
    at_rest = at_rest - expression[particles.anchor]
    means = np.einsum("nij,nj->ni", blend_relaxed[:, :, :3], at_rest) + blend_relaxed[:, :, 3]
    left, _, right = np.linalg.svd(blend_relaxed[:, :, :3] @ inverse)
    turn = Rotation.from_matrix(left @ right)
    quats = (turn * Rotation.from_quat(particles.quats[:, [1, 2, 3, 0]])).as_quat()[:, [3, 0, 1, 2]]
    return Canonical(
        means=means.astype(np.float32),
        quats=quats.astype(np.float32),
        log_scales=particles.log_scales.astype(np.float32),
        logit_opacities=particles.logit_opacities.astype(np.float32),
        colors=particles.colors.astype(np.float32),
        region=particles.region.astype(np.uint8),
        anchor=particles.anchor.astype(np.int32),
        knn=neighbours(template, layout, means, particles.n_base),
        shape=pose.shape.astype(np.float32),
        n_base=particles.n_base,
        stature=float(vertices[template.part == 0, 2].max()),
        pixel=pixel,
        background=background,
        stance=pose.rotvecs.astype(np.float32),
        freedom=freedom,
    )


def neighbours(template: Template, layout: ParticleLayout, means: np.ndarray, n_base: int) -> np.ndarray:
    """(N+S, NEIGHBOURS) nearest particles. Base particles are compared with mouth and eyes wide open, arms apart, so that
    lips and lids that touch are no neighbours; shells have the neighbours of their place in the canonical pose."""
    wide = {"jawOpen": 0.7, "eyeWideLeft": 0.7, "eyeWideRight": 0.7}
    amount = np.array([wide.get(name, 0.0) for name in template.face_action_names], np.float32)
    base = layout.points(template.add_actions(template.layout_positions, amount))
    _, index = cKDTree(base).query(base, k=NEIGHBOURS + 1)
    out = [index[:, 1:]]
    if len(means) > n_base:
        out.append(cKDTree(means).query(means[n_base:], k=NEIGHBOURS + 1)[1][:, 1:])
    return np.concatenate(out).astype(np.int32)
