"""Deformable fit of a canonical avatar to a clip: template track, coarse alignment, photometric refinement of all frames.

The refinement goes on with the track's own parameters (skeleton curves, face actions per frame) and adds node motions, which
explain what the template cannot (cloth, hair, cheeks), and a slight shading per node. It runs over windows of frames
through one batched call of the renderer, all frames advancing together, with losses that tie adjacent frames. Corrections
are held tight at the lips: a free fit explains a moving mouth by repainting it, which raises PSNR and loses the lips.

Source: AudioAvatar sections "Particle-based Gaussian Deformation Field" and "Video Diffusion Distillation" (losses).
Shapes: T frames, H x W pixels, P tracks, M keypoints, N base particles, S shell particles, K nodes, A = 52 actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from avatar_core.device import CPU, Compute
from avatar_core.errors import UserError
from avatar_core.fit import together
from avatar_core.fit.align import align, displaced
from avatar_core.fit.camera import clip_camera, usable
from avatar_core.fit.clip_refine import Motion, make_clip, refine_clip, render_window, windows
from avatar_core.fit.config import FitConfig
from avatar_core.fit.nodes import NodeGraph
from avatar_core.fit.pictures import Pictures, frame_psnr, make_pictures
from avatar_core.fit.pose import Pose
from avatar_core.fit.rig import FitRig, bones, make_rig, orient, place, ride, splats, subset
from avatar_core.fit.track import Track, keypoint_weights, track_clip
from avatar_core.geometry.camera import Camera
from avatar_core.geometry.rotations import quat_mul
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.deformation import Deformation, LocalFrames
from avatar_core.particles.framing import VISIBLE
from avatar_core.particles.layout import ParticleLayout
from avatar_core.particles.splats import rasterize_splats
from avatar_core.perception.tracks import TrackBinding, bind_tracks
from avatar_core.progress import Progress, silent
from avatar_core.template import Template, load_template
from avatar_core.template.landmarks import KEYPOINTS, indices

DEFAULT = FitConfig()
EVERY = 4  # frames apart are those that tell which particles show
MARGIN = 0.1  # of the picture's size, by which particles may still come into it
SHOWS = 0.05 / 256**2  # of the picture's pixels: a particle that never shows more counts as hidden
T = TypeVar("T")


@dataclass(frozen=True)
class ClipFit:
    """deformation (T frames) and the constant camera; visible: which regions the framing shows well enough to learn from;
    confidence (T,) in 0..1; metrics, flat; frames (T,H,W,3) uint8: the fit, rendered; means (T,N,3) m; pose: bones and actions."""

    deformation: Deformation
    camera: Camera
    visible: dict[str, bool]
    confidence: np.ndarray
    metrics: dict[str, float]
    frames: np.ndarray
    means: np.ndarray
    pose: Pose


def fit_clip(
    frames: np.ndarray,
    masks: np.ndarray,
    tracks: np.ndarray,
    keypoints_xy: np.ndarray,
    keypoints_confidence: np.ndarray,
    canonical: Canonical,
    layout: ParticleLayout,
    template: Template,
    framing: str,
    config: FitConfig = DEFAULT,
    *,
    filmed_from: float | None = None,
    nodes: NodeGraph | None = None,
    progress: Progress = silent,
    compute: Compute = CPU,
) -> ClipFit:
    """Fit `canonical` to a clip, from the clip alone; on the device, the result on the CPU.

    frames (T,H,W,3) uint8; masks (T,H,W) uint8, foreground 255; tracks (T,P,2) px, NaN when absent; keypoints_xy (T,M,2) px
    and confidence (T,M) in the order of template.landmarks.KEYPOINTS; framing: face, waist_up or full_body. filmed_from: as
    in `fit.camera`. nodes: the result of make_nodes, to share it between clips. Deterministic for one thread count of torch.

    Raises UserError for inputs that do not belong together, a clip without a person, or a fit that diverges.
    """
    seen = Observed(
        frames, masks, tracks, keypoints_xy, keypoints_confidence, canonical, framing, filmed_from
    )
    (fit,) = fit_clips([seen], layout, template, config, nodes=nodes, progress=progress, compute=compute)
    return fit


@dataclass(frozen=True)
class Observed:
    """A clip and whose it is: the arguments of `fit_clip`."""

    frames: np.ndarray
    masks: np.ndarray
    tracks: np.ndarray
    keypoints_xy: np.ndarray
    keypoints_confidence: np.ndarray
    canonical: Canonical
    framing: str
    filmed_from: float | None = None


def fit_clips(
    clips: Sequence[Observed],
    layout: ParticleLayout,
    template: Template,
    config: FitConfig = DEFAULT,
    *,
    nodes: NodeGraph | None = None,
    progress: Progress = silent,
    compute: Compute = CPU,
) -> list[ClipFit]:
    """`fit_clip` of clips of one framing, where there are several in common steps (`fit.together`): for a device that one leaves
    idle. They come out as one after the other within what sums in another order give.

    Raises UserError where one of them cannot be fitted, and for several that differ in framing or have fewer than
    `together.SHORTEST` frames.
    """
    framing, many = clips[0].framing, len(clips) > 1
    started = []
    for clip in clips:
        _check(
            clip.frames,
            clip.masks,
            clip.tracks,
            clip.keypoints_xy,
            clip.keypoints_confidence,
            clip.framing,
        )
        if many and (clip.framing != framing or len(clip.frames) < together.SHORTEST):
            raise UserError(
                f"clips: expected {framing} and {together.SHORTEST} frames or more, found {clip.framing} and {len(clip.frames)}"
            )
        confidence = usable(clip.keypoints_confidence, framing)
        height, width = clip.frames.shape[1:3]
        rig = make_rig(clip.canonical, layout, template, framing, nodes)
        rest = rig.rest[:, rig.n_base :].T.numpy()
        camera = clip_camera(rest, clip.keypoints_xy, confidence, width, height, framing, clip.filmed_from)
        started.append((rig.to(compute.device), clip.keypoints_xy, confidence, camera))
    rigs, xys, confidences, cameras = zip(*started, strict=True)
    track_all = together.track_clips if many else _each(track_clip)
    curves, tracks = zip(*track_all(rigs, xys, confidences, cameras, config.track), strict=True)
    pictures = [
        make_pictures(clip.frames, clip.masks, xy, confidence, config.weights).to(compute.device)
        for clip, xy, confidence in zip(clips, xys, confidences, strict=True)
    ]
    seen = [subset(rig, in_view(rig, track, config.batch)) for rig, track in zip(rigs, tracks, strict=True)]
    weights = [keypoint_weights(c, config.track).to(compute.device) for c in confidences]
    hold_head = VISIBLE[framing]["face"]
    align_all = together.align_clips if many else _each(align)
    shifts = align_all(seen, tracks, pictures, xys, weights, hold_head)
    seen = [displaced(*of) for of in zip(seen, shifts, strict=True)]
    bound = [
        make_clip(shown, track.camera, _bind(rig, track, clip.tracks), xy, weight, config.cutoff_hz)
        for shown, rig, track, clip, xy, weight in zip(
            pictures, seen, tracks, clips, xys, weights, strict=True
        )
    ]
    config = config if hold_head else replace(config, **vars(config.body_rates))
    refine_all = together.refine_clips if many else _each(refine_clip)
    motions = refine_all(seen, curves, tracks, bound, config, progress)
    return [
        _finish(displaced(rig, shift), motion, track, shown, layout, framing, confidence, config, shift)
        for rig, shift, motion, track, shown, confidence in zip(
            rigs, shifts, motions, tracks, pictures, confidences, strict=True
        )
    ]


def _each(function: Callable[..., T]) -> Callable[..., list[T]]:
    """A function of one clip as one of a list of one: arguments that are lists give theirs, others are shared."""

    def of_one(*arguments: Any) -> list[T]:
        return [function(*(a[0] if isinstance(a, (list, tuple)) else a for a in arguments))]

    return of_one


def camera_for(
    frames: np.ndarray,
    keypoints_xy: np.ndarray,
    keypoints_confidence: np.ndarray,
    canonical: Canonical,
    layout: ParticleLayout,
    framing: str,
    filmed_from: float | None,
) -> Camera:
    """The camera through which the canonical avatar stands as the person of a clip does: what `fit_clip` starts from."""
    rig = make_rig(canonical, layout, load_template(), framing, None)
    height, width = frames.shape[1:3]
    rest = rig.rest[:, rig.n_base :].T.numpy()
    return clip_camera(rest, keypoints_xy, keypoints_confidence, width, height, framing, filmed_from)


def _finish(
    rig: FitRig,
    motion: Motion,
    track: Track,
    pictures: Pictures,
    layout: ParticleLayout,
    framing: str,
    confidence: np.ndarray,
    config: FitConfig,
    displacement: Tensor,
) -> ClipFit:
    """Render the result in windows, measure it, and express it as a Deformation."""
    images, means, quats = [], [], []
    for window in windows(len(motion.weights), config.batch):
        with torch.no_grad():
            base, turned = motion.particles(rig, window)
            image, _ = render_window(
                rig, base, ride(rig, turned), motion.colors(rig, window), track.camera, pictures.background
            )
        images.append(image)
        means.append(base)
        quats.append(torch.nn.functional.normalize(turned, dim=-1))
    image, base, turned = torch.cat(images), torch.cat(means), torch.cat(quats)
    local = LocalFrames(rig.canonical, layout, base.device)
    deformation = local.decompose(base, quat_mul(turned, rig.quats))
    shade = (motion.colors(rig, slice(None)) - rig.colors)[:, : rig.n_base].detach()
    square = (image - pictures.target).square().mean(1)
    foreground = pictures.foreground > 0.5
    quality = frame_psnr(square, foreground)
    sure = np.clip(confidence, 0, 1)[:, indices("nose.", "jaw.", "lips_", "eyelids.")]
    trust = 1 / (1 + np.exp(-(quality - 20) / 2)) * np.clip(sure.mean(1) / 0.5, 0, 1)
    whole = torch.ones_like(foreground)
    hands = frame_psnr(square, pictures.hands & foreground)
    metrics = {
        "psnr": float(frame_psnr(square, whole).mean()),
        "psnr_foreground": float(quality.mean()),
        "psnr_face": float(frame_psnr(square, pictures.face).mean()),
        "psnr_hands": float(np.nanmean(hands)) if np.isfinite(hands).any() else float("nan"),
        "keypoint_error_px": float(track.point_error.mean()),
        "camera_distance_m": float(-track.camera.position[1]),
    }
    return ClipFit(
        deformation=replace(deformation, color=shade).to("cpu"),
        camera=track.camera,
        visible=dict(VISIBLE[framing]),
        confidence=trust.astype(np.float32),
        metrics=metrics,
        frames=(image.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy(),
        means=base.cpu().numpy(),
        pose=Pose(
            *(t.detach().cpu().numpy() for t in (*motion.curves(), motion.weights, displacement.contiguous()))
        ),
    )


def in_view(rig: FitRig, track: Track, batch: int) -> np.ndarray:
    """Base particles that show in some of the frames, or whose shells do: what is behind others, or outside of the picture grown
    by MARGIN, need not be drawn in every step."""
    width, height = track.camera.width, track.camera.height
    camera = track.camera.crop(
        -MARGIN * width, -MARGIN * height, *((1 + 2 * MARGIN) * s for s in (width, height))
    )
    shown = rig.colors.new_zeros(len(rig.colors))
    with torch.no_grad():
        transforms, quats = bones(rig, track.rotvecs[::EVERY], track.translation[::EVERY])
    for window in windows(len(transforms), batch):
        weights = track.weights[::EVERY][window]
        base = place(rig, transforms[window], weights, points=slice(0, rig.n_base))
        # The gradient of all pixels' sum by a splat's colour is how many of them show it.
        colors = rig.colors.repeat(len(weights), 1, 1).requires_grad_()
        how = ride(rig, orient(rig, quats[window], weights))
        image, _ = rasterize_splats(splats(rig, base, how, colors), camera, eps2d=rig.canonical.eps2d(camera))
        (pixels,) = torch.autograd.grad(image[..., 0].sum(), colors)
        shown = torch.maximum(shown, pixels[..., 0].amax(0))
    base, shells = shown.split([rig.n_base, len(rig.shell_anchor)])
    most = base.scatter_reduce(0, rig.shell_anchor, shells, "amax")
    return np.flatnonzero((most > SHOWS * width * height).cpu().numpy())


def _bind(rig: FitRig, track: Track, tracks: np.ndarray) -> TrackBinding:
    """Tracks on particles, where the template track puts them."""
    with torch.no_grad():
        transforms, _ = bones(rig, track.rotvecs, track.translation)
        points = place(rig, transforms, track.weights, points=slice(0, rig.n_base))
    pixels, depth = track.camera.project(points.cpu().numpy())
    return bind_tracks(np.asarray(tracks, np.float32), pixels, depth)


def _check(
    frames: np.ndarray,
    masks: np.ndarray,
    tracks: np.ndarray,
    xy: np.ndarray,
    confidence: np.ndarray,
    framing: str,
) -> None:
    """UserError naming what does not fit together."""
    if framing not in VISIBLE:
        raise UserError(f"framing: expected one of {', '.join(VISIBLE)}, found {framing!r}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise UserError(f"frames: expected (T,H,W,3) uint8, found {frames.shape} {frames.dtype}")
    t = len(frames)
    if masks.shape != frames.shape[:3]:
        raise UserError(f"masks: expected {frames.shape[:3]}, found {masks.shape}")
    if not masks.any():
        raise UserError("masks: expected a person in the foreground, found none")
    if tracks.ndim != 3 or len(tracks) != t or tracks.shape[-1] != 2:
        raise UserError(f"tracks: expected ({t},P,2), found {tracks.shape}")
    if xy.shape != (t, len(KEYPOINTS), 2) or confidence.shape != xy.shape[:2]:
        raise UserError(
            f"keypoints: expected ({t},{len(KEYPOINTS)},2), found {xy.shape} and {confidence.shape}"
        )
    if not np.isfinite(xy[confidence > 0]).all() or not np.isfinite(confidence).all():
        raise UserError("keypoints: expected finite numbers, found NaN or infinity")
