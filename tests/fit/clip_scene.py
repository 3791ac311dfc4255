"""A small known scene for the tests of the fit: a canonical avatar on the mean template, and a clip of it that is truly known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from scipy.spatial import cKDTree

from avatar_core.fit.rig import canonical_surface
from avatar_core.geometry.camera import Camera, look_at
from avatar_core.particles.background import Background
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.layout import make_layout
from avatar_core.particles.splats import rasterize_splats
from avatar_core.template import load_template, pose_template, relaxed_rotvecs
from avatar_core.template.landmarks import KEYPOINT_BONES, KEYPOINT_VERTICES, KEYPOINTS
from avatar_core.template.pose import bone_transforms

BUDGETS = {"face": 900, "hand": 120, "eyes": 60, "mouth_interior": 60, "body": 900}
SIZE, FRAMES = 96, 6


@dataclass(frozen=True)
class Scene:
    canonical: Canonical
    frames: np.ndarray
    masks: np.ndarray
    tracks: np.ndarray
    xy: np.ndarray
    confidence: np.ndarray
    vertices: np.ndarray  # (T,V,3) truth
    weights: np.ndarray  # (T,52) truth
    camera: Camera


def make_canonical(layout) -> Canonical:
    """Particles on the mean person in the relaxed pose, coloured by a smooth pattern."""
    template = load_template()
    shape = np.zeros(4, np.float32)
    bare = Canonical(
        *(np.zeros(0),) * 8,
        shape=shape,
        n_base=0,
        stature=1.7,
        pixel=0.0015,
        background=Background.plain(np.full(3, 0.8)),
        stance=relaxed_rotvecs(template),
        freedom=np.ones(2, np.float32),
    )
    vertices, _ = canonical_surface(bare, template)
    means = layout.points(vertices).astype(np.float32)
    distance, knn = cKDTree(means).query(means, k=7)
    spacing = distance[:, 1:5].mean(1)
    n = len(means)
    x = layout.template_positions
    colors = 0.5 + 0.3 * np.sin(x * [60, 45, 80] + [0, 1, 2])
    return Canonical(
        means=means,
        quats=np.tile(np.float32([1, 0, 0, 0]), (n, 1)),
        log_scales=np.log(np.repeat(0.6 * spacing[:, None], 3, 1)).astype(np.float32),
        logit_opacities=np.full(n, 2.0, np.float32),
        colors=colors.astype(np.float32),
        region=layout.region,
        anchor=np.arange(n, dtype=np.int32),
        knn=knn[:, 1:].astype(np.int32),
        shape=shape,
        n_base=n,
        stature=1.7,
        pixel=0.0015,
        background=bare.background,
        stance=bare.stance,
        freedom=bare.freedom,
    )


@lru_cache(maxsize=1)
def scene() -> Scene:
    """A face view: the head turns a little, the jaw opens and shuts; pictures, masks and keypoints without error."""
    template = load_template()
    layout = make_layout(ParticleBudgets(**BUDGETS), template)
    canonical = make_canonical(layout)
    names = template.face_action_names
    weights = np.zeros((FRAMES, len(names)), np.float32)
    weights[:, names.index("jawOpen")] = [0.0, 0.15, 0.4, 0.5, 0.2, 0.0]
    rest, heads = template.rest(canonical.shape)
    face = rest[template.vertex_of_base[297]]  # tip of the nose
    camera = look_at((0, face[1] - 2.4, face[2]), face * [0, 1, 1], 9.0, SIZE, SIZE)
    frames, alphas, points, surfaces = [], [], [], []
    for t in range(FRAMES):
        rotvecs = relaxed_rotvecs(template).copy()
        rotvecs[template.bone_index["head"], 2] = 0.06 * np.sin(t)
        surface = pose_template(template, canonical.shape, rotvecs, None, weights[t])
        transforms = bone_transforms(heads, rotvecs, None, template)
        joints = np.einsum("bij,bj->bi", transforms[:, :, :3], heads) + transforms[:, :, 3]
        keypoints = np.zeros((len(KEYPOINTS), 3))
        for k, bone in KEYPOINT_BONES:
            keypoints[k] = joints[template.bone_index[bone]]
        for k, ids in KEYPOINT_VERTICES:
            keypoints[k] = surface[template.vertex_of_base[list(ids)]].mean(0)
        splats = replace(
            canonical.splats(), means=torch.from_numpy(layout.points(surface).astype(np.float32))
        )
        image, alpha = rasterize_splats(splats, camera, background=torch.full((3,), 0.8))
        frames.append((image.clamp(0, 1) * 255).round().byte().numpy())
        alphas.append((alpha[..., 0] * 255).round().byte().numpy())
        points.append(keypoints)
        surfaces.append(surface)
    xy, _ = camera.project(np.stack(points))
    inside = ((xy > 0) & (xy < SIZE)).all(-1)
    return Scene(
        canonical, np.stack(frames), np.stack(alphas), np.full((FRAMES, 0, 2), np.nan, np.float32), xy.astype(np.float32),
        np.where(inside, 0.9, 0.0).astype(np.float32), np.stack(surfaces), weights, camera,
    )  # fmt: skip
