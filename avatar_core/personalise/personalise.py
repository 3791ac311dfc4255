"""One portrait in, a canonical avatar out: keypoints -> template -> clothed surface -> particles -> refined -> detail -> un-posed.

Source: AudioAvatar, "Particle-based Gaussian Deformation Field" (canonical avatar from a single reference image).

Legend: K keypoints, N base particles, S shell particles, V template vertices, B bones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from avatar_core.device import CPU, Compute
from avatar_core.errors import UserError
from avatar_core.geometry.camera import Camera
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.layout import ParticleLayout, make_layout
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.perception.foreground import Matte
from avatar_core.personalise.appearance import PortraitParticles, make_particles
from avatar_core.personalise.border import continued
from avatar_core.personalise.config import PersonaliseConfig
from avatar_core.personalise.detail import add_detail
from avatar_core.personalise.freedom import arm_freedom, held_things
from avatar_core.personalise.outside import beside, hide_below_arms, hide_outside
from avatar_core.personalise.portrait_pose import PortraitPose, fit_portrait_pose
from avatar_core.personalise.refine import refine
from avatar_core.personalise.refine_together import Portrayed, refine_together
from avatar_core.personalise.sighting import Look, look
from avatar_core.personalise.sleeves import find_arms
from avatar_core.personalise.surface import clothed_surface
from avatar_core.personalise.unpose import unpose
from avatar_core.personalise.view import View, psnr, render
from avatar_core.progress import Progress, silent
from avatar_core.template.landmarks import indices
from avatar_core.template.mesh import Template, load_template
from avatar_core.template.pose import pose_template
from avatar_core.training.loop import one_thread

WORK_PX = 768  # longer side of the picture that is fitted
MIN_PX = 64
FACE_CROP_PX = 256
MIN_FACE_PX = 24
T = TypeVar("T")


@dataclass(frozen=True)
class PortraitFit:
    """How well the avatar shows its portrait: the rendered picture (H,W,3) in the portrait's own pose, decibels over the person
    and over the face, the share of its opacity beside the person, and the median error of the keypoints. And what was found: the
    portrait as it was looked at (H,W,3), keypoints (K,2) px, their confidence (K,), the person cut out, the number of faces."""

    picture: np.ndarray
    psnr_foreground: float
    psnr_face: float
    outside: float
    keypoint_error_px: float
    portrait: np.ndarray
    keypoints: np.ndarray
    confidence: np.ndarray
    matte: Matte
    faces: int


def personalise(
    image: np.ndarray,
    perception: PerceptionConfig,
    *,
    config: PersonaliseConfig = PersonaliseConfig(),
    person: int = 1,
    fov_deg: float | None = None,
    progress: Progress = silent,
    compute: Compute = CPU,
) -> tuple[Canonical, Camera, PortraitFit]:
    """Portrait (H,W,3) float in [0,1] or uint8 -> avatar, the portrait's camera, how well it fits.

    perception: the detectors that give keypoints and mask. person: which face by size, 1 the largest. fov_deg: the lens's field
    of view across the longer side, None where it is not known. The camera sees the avatar, carried to its portrait's stance
    (`stance.to_stance`), as the portrait shows the person. compute: where the particles are refined; all else is done on the CPU.
    Raises UserError when the picture does not show a person's face.
    """
    (made,) = personalise_all(
        [Portrait(image, person, fov_deg)], perception, config=config, progress=progress, compute=compute
    )
    return made


@dataclass(frozen=True)
class Portrait:
    """A picture, and the arguments of `personalise` that go with it. name: what errors start with."""

    image: np.ndarray
    person: int = 1
    fov_deg: float | None = None
    name: str = ""


def personalise_all(
    portraits: Sequence[Portrait],
    perception: PerceptionConfig,
    *,
    config: PersonaliseConfig = PersonaliseConfig(),
    progress: Progress = silent,
    compute: Compute = CPU,
) -> list[tuple[Canonical, Camera, PortraitFit]]:
    """`personalise` of each. On a GPU the particles of all are refined in common steps: the results are those of one after the
    other within what sums in another order give; on the CPU they are the same bytes.

    Raises UserError for the first that cannot be used: before any is refined.
    """
    threads = torch.get_num_threads()
    total = config.refine.steps + config.refine.sharp_steps
    # All but the renderer on one thread, so that the command and the stage, whose workers have one each, make the same bytes.
    with one_thread():
        begun = [_named(p.name, _begin, p, perception, config, progress) for p in portraits]
        for sharp in (False, True):
            first = config.refine.steps if sharp else 0
            particles = _refine_all(
                [of.to_refine(sharp) for of in begun],
                [p.name for p in portraits],
                config.refine,
                sharp=sharp,
                threads=threads,
                progress=lambda done, _, what, first=first: progress(first + done, total, what),
                compute=compute,
            )
            begun = [
                of.refined(found, None if sharp else config)
                for of, found in zip(begun, particles, strict=True)
            ]
        return [_end(of) for of in begun]


def _refine_all(
    portraits: Sequence[Portrayed], names: Sequence[str], *more: Any, compute: Compute, **named: Any
) -> list[PortraitParticles]:
    """Together on a GPU, else one by one."""
    if compute.on_card and len(portraits) > 1:
        return refine_together(portraits, *more, names=names, compute=compute, **named)
    return [
        _named(name, refine, p.particles, p.view, p.face_view, *more, focus=p.focus, compute=compute, **named)
        for p, name in zip(portraits, names, strict=True)
    ]


def _named(name: str, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """What the function gives; its errors start with the name of the portrait."""
    try:
        return function(*arguments, **named)
    except UserError as error:
        raise UserError(f"{name}: {error}" if name else str(error)) from None


@dataclass(frozen=True)
class _Begun:
    """A portrait whose particles are placed."""

    picture: np.ndarray
    found: Look
    matte: Matte
    pose: PortraitPose
    template: Template
    layout: ParticleLayout
    vertices: np.ndarray
    particles: PortraitParticles
    view: View
    face_view: View
    face_box: tuple[int, int, int]

    def to_refine(self, sharp: bool) -> Portrayed:
        if not sharp:
            return Portrayed(self.particles, self.view, self.face_view)
        # a face this large has all its pixels in view
        closer = None if self.face_box[2] >= FACE_CROP_PX else self.face_view
        return Portrayed(self.particles, self.view, closer, self.face_box)

    def refined(self, particles: PortraitParticles, more: PersonaliseConfig | None) -> _Begun:
        """With other particles, and those that add detail where the config is given."""
        if more is not None:
            left = more.particles.shell - (len(particles.means) - particles.n_base)
            particles = add_detail(
                particles, self.view, self.template, self.layout, left, more.particles.seed
            )
        return replace(self, particles=particles)


def _begin(
    portrait: Portrait, perception: PerceptionConfig, config: PersonaliseConfig, progress: Progress
) -> _Begun:
    picture = check_portrait(portrait.image)
    height, width = picture.shape[:2]
    template = load_template()
    aside = ThreadPoolExecutor(1)
    places = aside.submit(
        make_layout, config.particles
    )  # on another core: nothing needs it before the pose is known
    aside.shutdown(wait=False)
    progress(0, 1, "keypoints")
    perception = perception.named(portrait.name) if portrait.name else perception
    found = look(perception.keypoint_detector, picture, portrait.person, portrait.fov_deg)
    xy, confidence = found.sighting.xy, found.sighting.confidence
    _check_size(xy)
    matte = perception.mask_detector.matte(picture, xy, confidence)
    _check_outline(matte.core, xy)
    progress(0, 1, "pose")
    pose = fit_portrait_pose(found.sighting, width, height, steps=config.pose_steps)
    layout = places.result()
    vertices = pose_template(template, pose.shape, pose.rotvecs, None, pose.face_weights)
    whole = continued(matte, pose.camera)
    camera, person_matte = whole.camera, whole.matte
    vertices = vertices + clothed_surface(template, vertices, camera, person_matte.core)
    particles = make_particles(
        template, layout, vertices, camera, person_matte, config.particles.shell, config.particles.seed
    )
    view = View.of(camera, person_matte.picture, whole.behind, person_matte.alpha, person_matte.colors)
    face_view, face_box = _face_view(view, xy + whole.corner)
    return _Begun(
        picture, found, matte, pose, template, layout, vertices, particles, view, face_view, face_box
    )


def _end(begun: _Begun) -> tuple[Canonical, Camera, PortraitFit]:
    template, layout, matte, pose, vertices = (
        begun.template, begun.layout, begun.matte, begun.pose, begun.vertices
    )  # fmt: skip
    xy, confidence = begun.found.sighting.xy, begun.found.sighting.confidence
    height, width = begun.picture.shape[:2]
    arms = find_arms(template, begun.layout)
    particles = hide_below_arms(hide_outside(begun.particles, begun.view), begun.view, arms)
    behind = matte.background.image(width, height)
    own = View.of(pose.camera, matte.picture, behind, matte.alpha, matte.colors)
    shown = _show(particles, own, matte.core, _face_view(own, xy)[1])
    fit = PortraitFit(*shown, pose.error_px, begun.picture, xy, confidence, matte, begun.found.faces)
    stance = (pose.shape, pose.rotvecs)
    holding = held_things(template, vertices, *stance, pose.camera, matte.core)
    seen = particles.seen[: particles.n_base]
    freedom = arm_freedom(template, layout, *stance, seen, confidence, holding)
    viewmat = pose.camera.viewmat
    depth = float(np.mean(particles.means[: particles.n_base] @ viewmat[2, :3] + viewmat[2, 3]))
    canonical = unpose(
        template, layout, particles, pose, depth / float(pose.camera.K[0, 0]), matte.background, freedom
    )
    return canonical, pose.camera, fit


def check_portrait(image: np.ndarray) -> np.ndarray:
    """(H,W,3 or 4) float or uint8 -> (H,W,3) float32 in [0,1], longer side at most WORK_PX. Raises UserError."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise UserError(f"portrait: expected a colour picture (H, W, 3), found shape {image.shape}")
    height, width = image.shape[:2]
    if min(height, width) < MIN_PX:
        raise UserError(f"portrait: expected sides of {MIN_PX} px or more, found {width} x {height} px")
    if max(height, width) > 4 * min(height, width):
        raise UserError(f"portrait: expected sides within a factor of 4, found {width} x {height} px")
    picture = image.astype(np.float32) / (255.0 if image.dtype == np.uint8 else 1.0)
    if not np.isfinite(picture).all():
        raise UserError("portrait: expected finite pixels, found NaN or infinity")
    if picture.shape[2] == 4:
        alpha = picture[..., 3:]
        if alpha.max() < 0.5:
            raise UserError("portrait: expected a visible person, found a fully transparent picture")
        picture = picture[..., :3] * alpha + 0.75 * (1 - alpha)
    picture = np.clip(picture, 0, 1)
    scale = WORK_PX / max(height, width)
    if scale < 1:
        size = (max(MIN_PX, round(width * scale)), max(MIN_PX, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    if float(picture.std()) < 0.01:
        raise UserError("portrait: expected a picture of a person, found one even colour")
    return np.ascontiguousarray(picture, dtype=np.float32)


def _check_size(xy: np.ndarray) -> None:
    side = float(np.ptp(xy[indices("eyelids.", "lips_", "jaw.")], axis=0).max())
    if side < MIN_FACE_PX:
        raise UserError(
            f"portrait: expected a face {MIN_FACE_PX} px high or more at {WORK_PX} px, found {side:.0f} px"
        )


def _check_outline(core: np.ndarray, xy: np.ndarray) -> None:
    """Raises UserError unless the foreground (H,W) holds the person's face."""
    points = np.floor(xy[indices("eyelids.", "lips_", "nose.")]).astype(int)
    column, row = points[:, 0].clip(0, core.shape[1] - 1), points[:, 1].clip(0, core.shape[0] - 1)
    if core[row, column].mean() < 0.5:
        raise UserError(
            "portrait: expected a person that stands out from what is behind, found no clear outline"
        )


def _face_view(view: View, xy: np.ndarray) -> tuple[View, tuple[int, int, int]]:
    points = xy[indices("brows.", "eyelids.", "lips_", "jaw.")]
    middle, extent = (points.min(0) + points.max(0)) / 2, np.ptp(points, axis=0).max()
    side = int(np.clip(1.35 * extent, 32, min(view.camera.width, view.camera.height)))
    x0 = int(np.clip(middle[0] - side / 2, 0, view.camera.width - side))
    y0 = int(np.clip(middle[1] - side / 2, 0, view.camera.height - side))
    return view.crop(x0, y0, side, FACE_CROP_PX), (x0, y0, side)


def _show(
    particles: PortraitParticles, view: View, mask: np.ndarray, box: tuple[int, int, int]
) -> tuple[np.ndarray, float, float, float]:
    """The first fields of `PortraitFit`."""
    with torch.no_grad():
        image, alpha = render(view, particles.splats())
    outside = float((alpha * beside(view)).sum() / alpha.sum())
    picture, target = image.clamp(0, 1).numpy(), view.target.numpy()
    x0, y0, side = box
    face = (slice(y0, y0 + side), slice(x0, x0 + side))
    return picture, psnr(picture, target, mask), psnr(picture[face], target[face]), outside
