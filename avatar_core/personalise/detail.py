"""Detail particles: small flat particles where the base particles cannot hold a cloth's pattern.

Base particles are shared by all identities and too sparse on the body for stripes or plaid. After a first refinement this
module spends what is left of the shell budget where the picture is still wrong: on the seen surface and on hair, flat on it,
drawn out along the pattern, in the portrait's colour, each tied to the base particle under it.

Legend: N particles before (base and shells), D detail particles, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]
from scipy.spatial.transform import Rotation

from avatar_core.particles.layout import REGIONS, ParticleLayout
from avatar_core.particles.splats import Splats, float_tensor, rasterize_splats
from avatar_core.personalise.appearance import PortraitParticles, join
from avatar_core.personalise.view import View
from avatar_core.template.landmarks import FACE_LANDMARKS
from avatar_core.template.mesh import Template


@dataclass(frozen=True)
class DetailConfig:
    """Where detail goes and how it starts."""

    keep_off_m: float = 0.012  # around the lines of lips and eyelids: they must part
    facing: float = 0.3  # cosine to the viewer from which the surface is well enough known
    apart_m: float = 0.03  # from the anchor, or 1.5 of its spacings
    lift_m: float = 0.0015  # above the surface: before the base particles in the order of depth
    power: float = 0.75  # particles per area ~ error ** power
    width: float = 0.45  # standard deviation in spacings
    stretch: float = 3.0  # at most, along the pattern over across
    smallest_px: float = 0.45
    largest_m: float = 0.006


def add_detail(
    particles: PortraitParticles,
    view: View,
    template: Template,
    layout: ParticleLayout,
    count: int,
    seed: int,
    config: DetailConfig = DetailConfig(),
) -> PortraitParticles:
    """particles with up to `count` more particles where its picture differs from the view's target."""
    blocked = moving(template, layout, config.keep_off_m)
    image, alpha, depth, hidden = _surface(particles, view, blocked)
    target = view.target.numpy()
    inner = cv2.erode((view.mask.numpy() > 0.9).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    rows, columns = np.nonzero(inner & (alpha > 0.8) & (hidden < 0.05))
    shell = np.arange(len(particles.means)) >= particles.n_base
    steady = np.flatnonzero(particles.seen & ~blocked[particles.anchor])
    if count < 8 or len(rows) < 8 or len(steady) < 8:
        return particles
    points = view.camera.unproject(np.stack([columns, rows], 1) + 0.5, depth[rows, columns])
    distance, near = cKDTree(particles.means[steady]).query(points, k=4)
    near = steady[near]
    sight = points - view.camera.position
    sight /= np.linalg.norm(sight, axis=1, keepdims=True)
    # Hair and loose cloth, whose particles have no side, are taken to face the viewer.
    normals = np.where(shell[near][..., None], -sight[:, None], _normals(particles)[near]).mean(1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    facing = -(normals * sight).sum(1)
    close = distance[:, 0] < np.maximum(config.apart_m, 1.5 * layout.spacing[particles.anchor[near[:, 0]]])
    usable = np.flatnonzero((facing > config.facing) & close)
    if len(usable) < 8:
        return particles
    # A pixel's own error is noise of where edges fall; its neighbourhood shows where detail lacks.
    error = cv2.GaussianBlur(((image - target) ** 2).mean(-1), (0, 0), 1.5)[rows, columns]
    chosen, density = _draw(
        rows[usable],
        columns[usable],
        error[usable] ** config.power,
        min(count, len(usable) // 2),
        np.random.default_rng([seed, 78]),
    )
    at = usable[chosen]
    row, column = rows[at], columns[at]
    anchor = particles.anchor[near[at, 0]]
    along, strength = pattern(target)
    size = _sizes(density[chosen], strength[row, column], depth[row, column] / view.camera.K[0, 0], config)
    direction = np.pad(along[row, column], ((0, 0), (0, 1))) @ view.camera.viewmat[:3, :3]
    new = PortraitParticles(
        means=points[at] + config.lift_m * normals[at],
        quats=_laid_on(direction, normals[at], sight[at]),
        log_scales=np.log(size),
        logit_opacities=np.full(len(at), 0.5),
        colors=view.colors.numpy()[row, column].astype(np.float64),
        region=layout.region[anchor],
        anchor=anchor.astype(np.int32),
        seen=np.ones(len(at), bool),
        facing=facing[at],
        n_base=0,
    )
    return join(particles, new)


def _sizes(density: np.ndarray, strength: np.ndarray, metre: np.ndarray, config: DetailConfig) -> np.ndarray:
    """(D,3) standard deviations along, across and through. density: particles per pixel; metre: of one pixel there."""
    spacing = np.maximum(1 / np.sqrt(density), 1.0)
    stretch = 1 + (config.stretch - 1) * strength
    across = np.maximum(config.width * spacing / np.sqrt(stretch), config.smallest_px) * metre
    flat = np.minimum(np.stack([across * stretch, across], 1), config.largest_m)
    return np.concatenate([flat, 0.25 * flat[:, 1:]], 1)


def _laid_on(direction: np.ndarray, normal: np.ndarray, sight: np.ndarray) -> np.ndarray:
    """(D,4) quaternions: first axis where the surface shows `direction` (D,3) of the picture plane, third its normal."""
    drop = (direction * normal).sum(1, keepdims=True) / (sight * normal).sum(1, keepdims=True)
    tangent = direction - drop * sight
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    axes = np.stack([tangent, np.cross(normal, tangent), normal], -1)
    return Rotation.from_matrix(axes).as_quat()[:, [3, 0, 1, 2]]


def moving(template: Template, layout: ParticleLayout, keep_off_m: float) -> np.ndarray:
    """(N_base,) bool: lips, eyelids, eyes, the mouth's inside and fingers, which bend or part and so carry no detail."""
    lines = [v for name, ids in FACE_LANDMARKS.items() if name.startswith(("lips_", "eyelids")) for v in ids]
    vertices = template.layout_positions[template.vertex_of_base[lines]]
    distance, _ = cKDTree(vertices).query(layout.template_positions)
    parts = ("eyes", "mouth_interior", "hand_left", "hand_right")
    inside = np.isin(layout.region, [REGIONS[part] for part in parts])
    return inside | (distance < keep_off_m)


def pattern(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H,W,3) -> unit direction along stripes and edges (H,W,2) as x, y, and how marked it is (H,W) in [0,1]."""
    gx = cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=3)
    gy = cv2.Sobel(image, cv2.CV_32F, 0, 1, ksize=3)
    blur = lambda a: cv2.GaussianBlur(a.sum(-1), (0, 0), 1.5)  # noqa: E731
    xx, yy, xy = blur(gx * gx), blur(gy * gy), blur(gx * gy)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2  # across the gradient
    strength = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + 1e-3)
    return np.stack([np.cos(angle), np.sin(angle)], -1), strength


def _surface(
    particles: PortraitParticles, view: View, blocked: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Picture (H,W,3), alpha (H,W), depth of what is seen (H,W), share of each pixel that is blocked particles (H,W)."""
    splats = Splats(
        float_tensor(particles.means),
        float_tensor(particles.quats),
        float_tensor(np.exp(particles.log_scales)),
        float_tensor(1 / (1 + np.exp(-particles.logit_opacities))),
        float_tensor(particles.colors),
    )
    marked = replace(splats, colors=float_tensor(blocked[particles.anchor])[:, None].repeat(1, 3))
    with torch.no_grad():
        image, alpha, depth = rasterize_splats(
            splats, view.camera, background=view.background, return_depth=True
        )
        share, _ = rasterize_splats(marked, view.camera)
    alpha = alpha[..., 0].numpy()
    depth = depth[..., 0].numpy() / np.maximum(alpha, 1e-6)
    return image.numpy(), alpha, depth, share[..., 0].numpy()


def _draw(
    rows: np.ndarray, columns: np.ndarray, weight: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`count` of the pixels by weight, evenly spread -> indices (D,), particles per pixel (all pixels,)."""
    density = count * weight / weight.sum()
    for _ in range(8):  # no pixel gets more than half a particle
        density = np.minimum(density, 0.5)
        density *= count / density.sum()
    density = np.minimum(density, 0.5)
    order = _zigzag(rows, columns)
    total = np.cumsum(density[order])
    wanted = np.arange(int(total[-1])) + rng.random(int(total[-1]))
    chosen = order[np.minimum(np.searchsorted(total, wanted), len(order) - 1)]
    return np.unique(chosen), density


def _zigzag(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Order along a Z curve: neighbours in the order are neighbours in the picture."""
    code = np.zeros(len(rows), np.int64)
    for bit in range(12):
        code |= ((columns >> bit & 1) << (2 * bit)) | ((rows >> bit & 1) << (2 * bit + 1))
    return np.argsort(code, kind="stable")


def _normals(particles: PortraitParticles) -> np.ndarray:
    """(N,3) the thin axis of each particle: outward on base particles as `make_particles` made them."""
    return Rotation.from_quat(particles.quats[:, [1, 2, 3, 0]]).as_matrix()[:, :, 2]
