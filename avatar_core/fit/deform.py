"""Deformable fit of a canonical avatar to a clip: template track, coarse alignment, photometric refinement of all frames.

The refinement goes on with the track's own parameters (skeleton curves, face actions per frame) and adds node motions, which
explain what the template cannot (cloth, hair, cheeks), and a slight shading per node. It runs over windows of frames
through one batched call of the renderer, all frames advancing together, with losses that tie adjacent frames. Corrections
are held tight at the lips: a free fit explains a moving mouth by repainting it, which raises PSNR and loses the lips.

Source: AudioAvatar sections "Particle-based Gaussian Deformation Field" and "Video Diffusion Distillation" (losses).
Shapes: T frames, H x W pixels, P tracks, M keypoints, N base particles, S shell particles, K nodes, A = 52 actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from avatar_core.device import CPU, Compute
from avatar_core.errors import UserError
from avatar_core.fit.align import align, displaced
from avatar_core.fit.camera import clip_camera, usable
from avatar_core.fit.clip_refine import Motion, make_clip, refine_clip, render_window, windows
from avatar_core.fit.config import FitConfig
from avatar_core.fit.nodes import NodeGraph
from avatar_core.fit.pictures import Pictures, frame_psnr, make_pictures
from avatar_core.fit.pose import Pose
from avatar_core.fit.rig import FitRig, bones, make_rig, place, subset
from avatar_core.fit.track import Track, keypoint_weights, track_clip
from avatar_core.geometry.camera import Camera
from avatar_core.geometry.rotations import quat_mul
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.deformation import Deformation, LocalFrames
from avatar_core.particles.framing import VISIBLE
from avatar_core.particles.layout import ParticleLayout
from avatar_core.perception.tracks import TrackBinding, bind_tracks
from avatar_core.progress import Progress, silent
from avatar_core.template import Template, load_template
from avatar_core.template.landmarks import KEYPOINTS, indices

DEFAULT = FitConfig()


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
    _check(frames, masks, tracks, keypoints_xy, keypoints_confidence, framing)
    keypoints_confidence = usable(keypoints_confidence, framing)
    height, width = frames.shape[1:3]
    rig = make_rig(canonical, layout, template, framing, nodes)
    rest = rig.rest[:, rig.n_base :].T.numpy()
    camera = clip_camera(rest, keypoints_xy, keypoints_confidence, width, height, framing, filmed_from)
    rig = rig.to(compute.device)
    curves, track = track_clip(rig, keypoints_xy, keypoints_confidence, camera, config.track)
    pictures = make_pictures(frames, masks, keypoints_xy, keypoints_confidence, config.weights)
    pictures = pictures.to(compute.device)
    seen = subset(rig, _in_view(rig, track))
    point_weight = keypoint_weights(keypoints_confidence, config.track).to(compute.device)
    hold_head = VISIBLE[framing]["face"]
    shift = align(seen, track, pictures, keypoints_xy, point_weight, hold_head)
    rig, seen = displaced(rig, shift), displaced(seen, shift)
    binding = _bind(seen, track, tracks)
    clip = make_clip(pictures, binding, keypoints_xy, point_weight, config.cutoff_hz)
    config = config if hold_head else replace(config, **vars(config.body_rates))
    motion = refine_clip(seen, curves, track, clip, config, progress)
    return _finish(rig, motion, track, pictures, layout, framing, keypoints_confidence, config, shift)


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
                rig, base, turned, motion.colors(rig, window), track.camera, pictures.background
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


def _in_view(rig: FitRig, track: Track, margin: float = 0.1, every: int = 8) -> np.ndarray:
    """Base particles that come within the picture, grown by `margin` of its size, in some of the frames."""
    with torch.no_grad():
        transforms, _ = bones(rig, track.rotvecs[::every], track.translation[::every])
        points = place(rig, transforms, track.weights[::every], points=slice(0, rig.n_base))
    xy, _ = track.camera.project(points.cpu().numpy())
    size = np.array([track.camera.width, track.camera.height])
    inside = ((xy > -margin * size) & (xy < (1 + margin) * size)).all(-1)
    return np.flatnonzero(inside.any(0))


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
