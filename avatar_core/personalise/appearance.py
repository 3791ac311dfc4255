"""Particles of a portrait before refinement: places, sizes, shells and colours, unseen sides completed.

Colours are read where a particle is seen; the rest takes them from the nearest seen particle of its kind on the mirrored,
depth-flattened template, so that backs look like sides and a hidden hand like the other hand or the face.

Legend: N base particles, S shell particles, V template vertices, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]
from scipy.spatial.transform import Rotation

from avatar_core.geometry.camera import Camera
from avatar_core.particles.layout import REGIONS, ParticleLayout
from avatar_core.particles.splats import Splats, float_tensor, rasterize_splats
from avatar_core.perception.foreground import Matte
from avatar_core.personalise.inside import GONE, draw_in
from avatar_core.personalise.sleeves import Arms, complete_arms, find_arms, misread, sleeve_ends, to_lab
from avatar_core.personalise.surface import silhouette, vertex_normals
from avatar_core.template.mesh import PARTS, Template

FACING = 0.15  # cosine to the viewer from which a colour is believed
FRONTAL = 0.3  # ... from which an arm's colour is handed on: outlines have shadows and backdrop in them
DEPTH_SLACK_M = 0.012
TOOTH, GUM, TONGUE, CAVITY = (0.87, 0.83, 0.77), (0.62, 0.33, 0.32), (0.66, 0.36, 0.35), (0.30, 0.10, 0.09)
LIGHT = (0.55, 1.1)  # dark rooms have dark teeth, not black ones
WHITE, LEAST_EYES = (
    np.array((0.80, 0.73, 0.70)),
    24,
)  # of eyes in daylight, in the shade of their lids; particles that tell it
WARMTH = 0.8  # what of an eye's tint is the light's
SHELL_DEPTH_M = 0.006
SHELL_SHARE = 0.5  # of their budget, at most: the rest goes where detail lacks
SHELL_PX = 2.5  # pixels of uncovered person for each shell particle
AROUND, CHOICE = (
    6,
    16,
)  # particles near a shell that tell its depth, and among which it finds what it belongs to
LOOKS = 1.5  # difference in looks (CIELAB) that outweighs a pixel of distance
PUSHED_BACK = 0.3  # share of hair shells that give the hair depth


@dataclass(frozen=True)
class PortraitParticles:
    """N+S particles in the portrait's pose, fields as in `Canonical`. seen (N+S,): its colour was read from the portrait;
    facing (N+S,): cosine between its surface and the line of sight, 1 for shells."""

    means: np.ndarray
    quats: np.ndarray
    log_scales: np.ndarray
    logit_opacities: np.ndarray
    colors: np.ndarray
    region: np.ndarray
    anchor: np.ndarray
    seen: np.ndarray
    facing: np.ndarray
    n_base: int

    def splats(self) -> Splats:
        return Splats.activated(self.means, self.quats, self.log_scales, self.logit_opacities, self.colors)


def make_particles(
    template: Template,
    layout: ParticleLayout,
    vertices: np.ndarray,
    camera: Camera,
    matte: Matte,
    shells: int,
    seed: int,
) -> PortraitParticles:
    """Particles on posed vertices (V,3) before camera, coloured from the person that the matte cuts out."""
    means, lost = draw_in(layout.points(vertices).astype(np.float64), camera, matte.alpha)
    normals = layout.points(vertex_normals(vertices, template.faces))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    base = _base(layout, means, normals)
    base.logit_opacities[lost] = GONE
    arms = find_arms(template, layout)
    base = _color(base, layout, normals, camera, matte.colors, matte.core)
    base = completed(base, template, layout, arms)
    rng = np.random.default_rng([seed, 77])
    shell = _shells(template, layout, arms, vertices, base, camera, matte, shells, rng)
    return join(base, shell)


def _base(layout: ParticleLayout, means: np.ndarray, normals: np.ndarray) -> PortraitParticles:
    n = len(means)
    spacing = np.empty(n)
    for code in np.unique(layout.region):
        rows = np.flatnonzero(layout.region == code)
        distance, _ = cKDTree(means[rows]).query(means[rows], k=5)
        spacing[rows] = distance[:, 1:].mean(1)
    spread = np.clip(0.75 * spacing, 0.0006, 0.014)
    thin = 0.25 * spread
    helper = np.where(np.abs(normals[:, :1]) < 0.9, [[1.0, 0, 0]], [[0, 1.0, 0]])
    tangent = np.cross(normals, helper)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    axes = np.stack([tangent, np.cross(normals, tangent), normals], -1)
    quats = Rotation.from_matrix(axes).as_quat()[:, [3, 0, 1, 2]]
    return PortraitParticles(
        means=means,
        quats=quats,
        log_scales=np.log(np.stack([spread, spread, thin], 1)),
        logit_opacities=np.full(n, 2.2),
        colors=np.full((n, 3), 0.5),
        region=layout.region,
        anchor=np.arange(n, dtype=np.int32),
        seen=np.zeros(n, bool),
        facing=np.zeros(n),
        n_base=n,
    )


def _shells(
    template: Template,
    layout: ParticleLayout,
    arms: Arms,
    vertices: np.ndarray,
    base: PortraitParticles,
    camera: Camera,
    matte: Matte,
    count: int,
    rng: np.random.Generator,
) -> PortraitParticles:
    """Particles on the pixels of the person that the surface does not cover, each tied to a particle nearby."""
    # A thin ring round the surface deserves no particles: it would show the backdrop.
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    covered = cv2.dilate(silhouette(vertices, template.faces, camera).astype(np.uint8), kernel)
    bare = np.asarray(matte.pure & (covered == 0), np.uint8)
    uncovered = cv2.morphologyEx(bare, cv2.MORPH_OPEN, kernel)
    rows, columns = np.nonzero(uncovered)
    count = min(round(SHELL_SHARE * count), int(len(rows) / SHELL_PX))
    none = {"region": np.uint8, "anchor": np.int32, "seen": bool}
    shapes = {"means": (0, 3), "quats": (0, 4), "log_scales": (0, 3), "colors": (0, 3)}
    names = [f.name for f in fields(PortraitParticles) if f.name != "n_base"]
    empty = PortraitParticles(
        **{k: np.zeros(shapes.get(k, 0), none.get(k, np.float64)) for k in names}, n_base=0
    )
    if count < 8:
        return empty
    chosen = _spread_pixels(rows, columns, count, rng)
    xy = np.stack([columns[chosen] + rng.random(count), rows[chosen] + rng.random(count)], 1)
    projected, depth = camera.project(base.means)
    steady = np.isin(layout.region, [REGIONS[r] for r in ("body", "face", "hand_left", "hand_right")])
    moved = np.zeros(len(template.vertices))
    moved[template.face_action_vertices] = np.linalg.norm(template.face_actions, axis=-1).max(0)
    steady &= layout.points(np.repeat(moved[:, None], 3, 1))[:, 0] < 0.004
    candidates = np.flatnonzero(steady)
    head = layout.points(np.repeat(template.bone_weight("head")[:, None], 3, 1))[:, 0] > 0.6
    distance, near = cKDTree(projected[candidates]).query(xy, k=CHOICE)
    near = candidates[near]
    colors = _softened(matte.colors)[rows[chosen], columns[chosen]]
    # Where an arm passes before the body or the other arm, a pixel belongs to what it looks like.
    apart = np.linalg.norm(to_lab(colors)[:, None] - to_lab(base.colors)[near], axis=2)
    contested = np.ptp(arms.part[near], axis=1) > 0
    anchor = np.where(contested, near[np.arange(count), (apart + LOOKS * distance).argmin(1)], near[:, 0])
    around = np.where(contested, depth[anchor], depth[near[:, :AROUND]].mean(1))
    at = around + rng.normal(0, SHELL_DEPTH_M, count)
    hair = head[near[:, :AROUND]].mean(1) > 0.5
    # Hair has volume: some of it lies behind what one sees.
    back = hair & (rng.random(count) < PUSHED_BACK)
    at[back] += rng.uniform(0, 0.09, back.sum())
    world = camera.unproject(xy, at)
    spacing = np.sqrt(len(rows) / count) * float(np.median(at)) / camera.K[0, 0]
    size = np.log(np.clip(0.9 * spacing, 0.001, 0.006))
    quats = np.zeros((count, 4))
    quats[:, 0] = 1
    known = matte.core[rows[chosen], columns[chosen]]
    return PortraitParticles(
        means=world,
        quats=quats,
        log_scales=np.full((count, 3), size),
        logit_opacities=np.full(count, 1.0),
        colors=np.where(known[:, None], colors, base.colors[anchor]),
        region=layout.region[anchor],
        anchor=anchor.astype(np.int32),
        seen=known,
        facing=np.ones(count),
        n_base=0,
    )


def _spread_pixels(rows: np.ndarray, columns: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the pixels, evenly: a random offset into their order along small blocks."""
    block = (rows // 4) * 100_000 + columns // 4
    order = np.lexsort((rng.random(len(rows)), block))
    place = (np.arange(count) + rng.random(count)) / count * len(rows)
    return order[np.minimum(place.astype(int), len(rows) - 1)]


def join(base: PortraitParticles, shell: PortraitParticles) -> PortraitParticles:
    """Both, base first; `base` says how many of them are base particles."""
    arrays = {
        name: np.concatenate([getattr(base, name), getattr(shell, name)])
        for name in (
            "means",
            "quats",
            "log_scales",
            "logit_opacities",
            "colors",
            "region",
            "anchor",
            "seen",
            "facing",
        )
    }
    return PortraitParticles(**arrays, n_base=base.n_base)


def _color(
    particles: PortraitParticles,
    layout: ParticleLayout,
    normals: np.ndarray,
    camera: Camera,
    image: np.ndarray,
    mask: np.ndarray,
) -> PortraitParticles:
    """Base particles with colours from image (H,W,3) where they are seen in mask (H,W)."""
    xy, depth = camera.project(particles.means)
    column, row = np.floor(xy[:, 0]).astype(int), np.floor(xy[:, 1]).astype(int)
    framed = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height)
    column, row = column.clip(0, camera.width - 1), row.clip(0, camera.height - 1)
    nearest = _depth_image(particles, camera)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    view = particles.means - camera.position
    facing = -(normals * view).sum(1) / np.linalg.norm(view, axis=1)
    seen = framed & inner[row, column] & (facing > FACING)
    seen &= depth < nearest[row, column] + DEPTH_SLACK_M
    seen &= layout.region != REGIONS["mouth_interior"]
    colors = particles.colors.copy()
    colors[seen] = _softened(image)[row[seen], column[seen]]
    return replace(particles, colors=colors, seen=seen, facing=facing)


def _softened(image: np.ndarray) -> np.ndarray:
    """What a particle of a pixel or two sees of a picture."""
    return cv2.GaussianBlur(image, (0, 0), 0.7)


def completed(
    base: PortraitParticles, template: Template, layout: ParticleLayout, arms: Arms
) -> PortraitParticles:
    """Base particles with the colours of those filled in that are not `seen`."""
    colors, region = base.colors.copy(), layout.region
    ends, pieces = sleeve_ends(arms, layout, colors, base.seen)
    seen = base.seen
    told = seen & ~misread(arms, ends, pieces, colors, seen)
    position = layout.template_positions
    key = np.stack([np.abs(position[:, 0]), position[:, 1] * 0.35, position[:, 2]], 1)
    face = region == REGIONS["face"]
    hands = np.isin(region, [REGIONS["hand_left"], REGIONS["hand_right"]])
    skin_tone = np.median(colors[told & face], 0) if (told & face).any() else np.array([0.7, 0.55, 0.45])
    head = layout.points(np.repeat(template.bone_weight("head")[:, None], 3, 1))[:, 0] > 0.6
    scalp, body = (region == REGIONS["body"]) & head, (region == REGIONS["body"]) & ~head
    eyes = region == REGIONS["eyes"]
    # A bald head goes on from the forehead, hair from the hair that shows.
    for group, source in ((face, face), (hands, hands), (body, body), (scalp, scalp | face), (eyes, eyes)):
        known, missing = np.flatnonzero(source & told), np.flatnonzero(group & ~seen)
        if len(known) < 12:
            colors[missing] = skin_tone if group is not hands or not len(known) else colors[known].mean(0)
            continue
        _, which = cKDTree(key[known]).query(key[missing], k=3)
        colors[missing] = colors[known][which].mean(1)
    colors = complete_arms(
        arms, ends, layout, key, colors, missing=~seen, told=told & (base.facing > FRONTAL)
    )
    inside = np.flatnonzero(region == REGIONS["mouth_interior"])
    colors[inside] = _mouth_inside(template, layout, inside, _light(colors[eyes & seen], skin_tone))
    return replace(base, colors=colors)


def _light(eyes: np.ndarray, skin_tone: np.ndarray) -> np.ndarray:
    """Colour (3,) of the light on the face, 1 in a well lit portrait: as bright as the skin has it, and as warm as the whites of
    the eyes, of which colours (n,3) show; skin, which differs from person to person, does not tell how warm."""
    light = np.full(3, np.clip(skin_tone.mean() / 0.62, *LIGHT))
    if len(eyes) < LEAST_EYES:
        return light
    white = eyes[np.argsort(eyes.mean(1))[-max(4, len(eyes) // 10) :]].mean(0) / WHITE
    return light * (white / white.mean()) ** WARMTH


def _mouth_inside(
    template: Template, layout: ParticleLayout, inside: np.ndarray, light: np.ndarray
) -> np.ndarray:
    """Colours (n,3) of the particles `inside` the mouth in this light (3,): teeth, gums, tongue, darker the deeper."""
    part = template.part[layout.triangles[inside, 0]]
    down = _toward_edge(template, layout, inside)
    tooth = np.isin(part, (PARTS["upper_teeth"], PARTS["lower_teeth"]))
    tint = np.where((part == PARTS["tongue"])[:, None], TONGUE, CAVITY)
    tint = np.where(tooth[:, None], np.where(down[:, None] > 0.38, TOOTH, GUM), tint)
    y = layout.template_positions[inside, 1]
    depth = y - y.min()
    fade = np.where(tooth, 1 - 12 * depth, 1 - 8 * depth).clip(0.35, 1)
    return np.clip(tint * fade[:, None] * light, 0, 1)


def _toward_edge(template: Template, layout: ParticleLayout, rows: np.ndarray) -> np.ndarray:
    """0 at the gum, 1 at the biting edge, of particles on teeth."""
    z = layout.template_positions[rows, 2]
    out = np.zeros(len(rows))
    part = template.part[layout.triangles[rows, 0]]
    for name, sign in (("upper_teeth", -1), ("lower_teeth", 1)):
        every = template.layout_positions[template.part == PARTS[name], 2]
        mine = part == PARTS[name]
        low, high = every.min(), every.max()
        share = (z[mine] - low) / (high - low)
        out[mine] = share if sign > 0 else 1 - share
    return out


def _depth_image(particles: PortraitParticles, camera: Camera) -> np.ndarray:
    """(H, W) depth of the nearest surface of the base particles, large where there is none."""
    n = particles.n_base
    solid = Splats(
        float_tensor(particles.means[:n]),
        float_tensor(particles.quats[:n]),
        float_tensor(np.exp(particles.log_scales[:n])),
        torch.full((n,), 0.99),
        torch.zeros(n, 3),
    )
    with torch.no_grad():
        _, alpha, depth = rasterize_splats(solid, camera, return_depth=True)
    alpha, depth = alpha[..., 0].numpy(), depth[..., 0].numpy()
    return np.where(alpha > 0.3, depth / np.maximum(alpha, 1e-6), 1e3)
