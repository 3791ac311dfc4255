"""Photometric refinement of a tracked clip: all frames advance together, rendered window by window.

Parameters: the track's splines and face actions, and per frame and node a shift, a turn and a shade. The optimiser is Adam
with a floor under its second moment: parameters with almost no gradient then stay where they are instead of moving at full rate.

Source: AudioAvatar section "Video Diffusion Distillation"; Adam is Kingma and Ba 2015.
Shapes: T frames, F frames of a window, N base particles, S shells, P = N + M points, K nodes, A = 52 actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar_core.errors import UserError
from avatar_core.fit import losses
from avatar_core.fit.adam import FlooredAdam
from avatar_core.fit.config import FitConfig
from avatar_core.fit.pictures import Pictures
from avatar_core.fit.pose_prior import pose_prior
from avatar_core.fit.rig import FitRig, Ride, bones, orient, place, ride, splats
from avatar_core.fit.track import Curves, Track, opening_loss
from avatar_core.geometry.camera import Camera, project
from avatar_core.particles.splats import rasterize_splats
from avatar_core.perception.tracks import TrackBinding
from avatar_core.progress import Progress, silent

TROUBLE = 3  # steps that may be undone
TURNS_EVERY = 3  # steps between updates of the particles' orientations, which the picture hardly feels


@dataclass(frozen=True)
class Motion:
    """State of the fit: curves; weights (T,A); node shift (T,K,3) mm, turn (T,K,3) rad, shade (T,K) relative brightness."""

    curves: Curves
    weights: Tensor
    shift: Tensor
    turn: Tensor
    shade: Tensor

    def parameters(self) -> tuple[Tensor, ...]:
        return (*self.curves.parameters(), self.weights, self.shift, self.turn, self.shade)

    def particles(self, rig: FitRig, window: slice) -> tuple[Tensor, Tensor]:
        """Base particles (F,N,3) and their turns (F,N,4)."""
        transforms, quats = bones(rig, *self.curves())
        points = place(
            rig, transforms[window], self.weights[window], 1e-3 * self.shift[window], self.turn[window]
        )
        return points[:, : rig.n_base], orient(rig, quats[window], self.weights[window], self.turn[window])

    def colors(self, rig: FitRig, window: slice) -> Tensor:
        return shaded(rig, self.shade[window])


@dataclass(frozen=True)
class Clip:
    """Everything observed: pictures of the person's part of the frames, the camera that draws it, its share of the frames' pixels,
    and its structure; tracks on particles (Q,), targets (T,Q,2), seen (T,Q); keypoints
    xy (T,M,2), weight (T,M); highpass (T,T)."""

    pictures: Pictures
    camera: Camera
    share: float
    structure: losses.Structure
    particles: Tensor
    targets: Tensor
    seen: Tensor
    xy: Tensor
    point_weight: Tensor
    highpass: Tensor

    def seen_in(self, window: slice) -> losses.Seen:
        p = self.pictures
        return losses.Seen(p.target, p.foreground, p.weight, p.background, self.structure)[window]


def make_clip(
    whole: Pictures,
    camera: Camera,
    binding: TrackBinding,
    xy: np.ndarray,
    point_weight: Tensor,
    cutoff_hz: float,
) -> Clip:
    device, pictures = whole.target.device, whole.of_person()
    targets = torch.from_numpy(binding.targets).to(device)
    return Clip(
        pictures,
        camera if whole.box is None else camera.crop(*whole.box),
        pictures.background[0].numel() / whole.background[0].numel(),
        losses.structure(pictures.target, pictures.weight),
        torch.from_numpy(binding.particles).to(device),
        targets,
        torch.isfinite(targets).all(-1).float(),
        torch.from_numpy(np.asarray(xy, np.float32)).to(device),
        point_weight,
        losses.highpass(len(targets), cutoff_hz).to(device),
    )


def shaded(rig: FitRig, shade: Tensor) -> Tensor:
    """Colours (F,N+S,3): the canonical ones, brighter by the blended shade (F,K) of the nodes."""
    gain = rig.blend(shade.T.contiguous()).T[:, : rig.n_base]
    if len(rig.shell_anchor):
        gain = torch.cat([gain, gain[:, rig.shell_anchor]], 1)
    return rig.colors * (1 + gain[..., None])


def windows(frames: int, size: int) -> list[slice]:
    """Consecutive windows of at most `size` frames, sizes as equal as can be."""
    count = -(-frames // size)
    edges = [round(k * frames / count) for k in range(count + 1)]
    return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]


def render_window(
    rig: FitRig, base: Tensor, how: Ride, colors: Tensor, camera: Camera, background: Tensor
) -> tuple[Tensor, Tensor]:
    """Base particles (F,N,3), their turns, colours (F,N+S,3), background (3,H,W) -> images (F,3,H,W), coverage (F,H,W)."""
    image, alpha = draw(rig, base, how, colors, camera)
    return image + (1 - alpha[:, None]) * background, alpha


def draw(rig: FitRig, base: Tensor, how: Ride, colors: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """`render_window` over black."""
    image, alpha = rasterize_splats(splats(rig, base, how, colors), camera, eps2d=rig.canonical.eps2d(camera))
    return image.movedim(-1, 1), alpha[..., 0]  # planar in memory as it comes


def refine_clip(
    rig: FitRig,
    curves: Curves,
    track: Track,
    clip: Clip,
    config: FitConfig,
    progress: Progress = silent,
) -> Motion:
    """Fit to the pictures, starting from the track (whose curves are changed).

    A step whose gradients are not finite is undone and the rates are halved; UserError when that does not help.
    """
    frames, nodes = len(track.weights), len(rig.node_rest)
    motion = Motion(
        curves,
        track.weights.clone().requires_grad_(),
        rig.rest.new_zeros(frames, nodes, 3).requires_grad_(),
        rig.rest.new_zeros(frames, nodes, 3).requires_grad_(),
        rig.rest.new_zeros(frames, nodes).requires_grad_(),
    )
    optimizer = FlooredAdam(motion.parameters(), rates(config))
    trouble, turns = 0, {}
    for step in range(config.iterations):
        optimizer.clear()
        if step % TURNS_EVERY == 0:
            turns.clear()
        backward(rig, motion, track, clip, config, turns)
        if not optimizer.finite():
            trouble += 1
            if trouble > TROUBLE:
                raise UserError("clip: the fit diverged (gradients are not finite)")
            optimizer.undo()
            continue
        optimizer.step(decay(step, config))
        progress(step + 1, config.iterations, "refine")
    return motion


def rates(config: FitConfig) -> list[float]:
    """Of `Motion.parameters`."""
    return [
        0.3 * config.rate_rotation, config.rate_rotation, config.rate_translation, config.rate_action,
        config.rate_shift_mm, config.rate_turn, config.rate_shade,
    ]  # fmt: skip


def decay(step: int, config: FitConfig) -> float:
    """Share of the rates at a step: cosine decay to a tenth, late steps settle."""
    return 0.1 + 0.45 * (1 + float(np.cos(np.pi * step / config.iterations)))


def backward(
    rig: FitRig,
    motion: Motion,
    track: Track,
    clip: Clip,
    config: FitConfig,
    turns: dict[int, Ride] | None = None,
) -> Tensor:
    """Adds the gradients of all losses to the parameters; returns the loss. `turns` keeps the particles' orientations,
    by window, between calls."""
    turns = {} if turns is None else turns
    frames = len(motion.weights)
    rotvecs, translation = motion.curves()
    transforms, quats = bones(rig, rotvecs, translation)
    # Windows stop at the bone transforms: the skeleton is differentiated once for the whole clip.
    leaf = transforms.detach().requires_grad_()
    total = leaf.new_zeros(())
    for window in windows(frames, config.batch):
        share = (window.stop - window.start) / frames
        if window.start not in turns:
            turned = orient(rig, quats[window], motion.weights[window], motion.turn[window])
            turns[window.start] = ride(rig, turned)
        loss = share * window_loss(rig, motion, leaf, turns[window.start], track.camera, clip, window, config)
        loss.backward()
        total = total + loss.detach()
    prior = 0.1 * pose_prior(rig, rotvecs, translation, config.track)
    prior = prior + motion_prior(rig, motion, track.weights, clip.highpass, config)
    value = total + prior.detach()
    assert leaf.grad is not None
    (prior + (transforms * leaf.grad).sum()).backward()
    return value


def motion_prior(
    rig: FitRig,
    motion: Motion,
    tracked: Tensor,
    highpass: Tensor,
    config: FitConfig,
    real: Tensor | None = None,
) -> Tensor:
    """What a motion costs before any picture is seen: rigidity, locality, spectrum, bounds of the face actions.

    tracked (T,A): the track's face actions. real: as in `losses.frame_mean`.

    Locked by test_locality_holds_nodes_where_they_rest, test_each_weight_switches_its_own_term.
    """
    w, tight = config.weights, rig.node_tight
    weights, shift, turn, shade = motion.weights, motion.shift, motion.turn, motion.shade
    loss = config.action_prior * losses.frame_mean((weights - tracked).square().sum(-1), real)
    loss = loss + 2.0 * losses.bounds_loss(weights, real) * weights.shape[1]
    strain = losses.edge_strain(1e-3 * shift, turn, rig.node_rest, rig.edges)
    within, across = (losses.strain_energy(s, rig.edge_weight, real) for s in (strain, strain.diff(dim=0)))
    loss = loss + w.arap * 200 * (within + 2 * across)
    moved = (shift.square().sum(-1) + 400 * turn.square().sum(-1)) * tight
    loss = loss + w.locality * 0.02 * losses.frame_mean(moved, real)
    loss = loss + w.locality * losses.frame_mean(shade.square() * tight, real)
    if len(weights) > 2:
        jitter = losses.spectral_loss(shift * tight[:, None].sqrt(), highpass) + losses.spectral_loss(
            20 * turn, highpass
        )
        loss = loss + w.spectral * 0.05 * jitter + w.spectral * losses.spectral_loss(shade, highpass)
        loss = loss + w.spectral * 0.02 * losses.spectral_loss(weights, highpass)
    return loss


def window_loss(
    rig: FitRig,
    motion: Motion,
    transforms: Tensor,
    how: Ride,
    camera: Camera,
    clip: Clip,
    window: slice,
    config: FitConfig,
) -> Tensor:
    """Picture and point losses of a window of frames; transforms (T,R,12) of the whole clip, turns of the window."""
    w, n = config.weights, rig.n_base
    weights, turn = motion.weights[window], motion.turn[window]
    points = place(rig, transforms[window], weights, 1e-3 * motion.shift[window], turn)
    base, marks = points.split([n, points.shape[1] - n], 1)
    image, alpha = draw(rig, base, how, shaded(rig, motion.shade[window]), clip.camera)
    loss = clip.share * losses.picture_loss(image, alpha, clip.seen_in(window), w)
    if w.tracks > 0 and len(clip.particles):
        seen = project(base[:, clip.particles], camera)
        loss = loss + w.tracks * losses.point_loss(seen, clip.targets[window], clip.seen[window])
    if w.keypoints > 0:
        seen, xy, weight = project(marks, camera), clip.xy[window], clip.point_weight[window]
        loss = loss + w.keypoints * keypoint_loss(seen, xy, weight, config)
    return loss


def keypoint_loss(seen: Tensor, xy: Tensor, weight: Tensor, config: FitConfig) -> Tensor:
    """Of keypoints (F,M,2) px where they should be, weight (F,M): places, and openings of lips and lids."""
    opening = opening_loss(seen, xy, weight)
    return losses.point_loss(seen, xy, weight) + config.track.opening * opening
