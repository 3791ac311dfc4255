"""Track, alignment and refinement of several clips of one framing in common steps; see `several` for how and why.

Shapes: as in `several`; W windows of F frames, Q tracks, M keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatar_core.errors import UserError
from avatar_core.fit import align, losses
from avatar_core.fit.adam import FlooredAdam
from avatar_core.fit.clip_refine import (
    TROUBLE,
    TURNS_EVERY,
    Clip,
    Motion,
    decay,
    draw,
    keypoint_loss,
    motion_prior,
    rates,
    shaded,
    windows,
)
from avatar_core.fit.config import FitConfig, SkeletonTrackConfig
from avatar_core.fit.pictures import Pictures
from avatar_core.fit.pose_prior import pose_prior
from avatar_core.fit.rig import FitRig, bones, orient, place, ride
from avatar_core.fit.several import Parameters, Several, filled, stacked_curves
from avatar_core.fit.track import (
    Curves,
    Told,
    Track,
    keypoint_weights,
    make_curves,
    track_decay,
    track_loss,
    track_optimizer,
    track_result,
)
from avatar_core.geometry.camera import Camera, project_through
from avatar_core.progress import Progress, silent

SHORTEST = align.FRAMES  # frames: shorter clips are fitted alone
DRAWN = 64  # frames of a clip in one rendering


def track_clips(
    rigs: Sequence[FitRig],
    xys: Sequence[np.ndarray],
    confidences: Sequence[np.ndarray],
    cameras: Sequence[Camera],
    config: SkeletonTrackConfig,
) -> list[tuple[Curves, Track]]:
    """`track.track_clip` of each."""
    device, several = rigs[0].rest.device, Several(rigs, [len(xy) for xy in xys])
    targets = [torch.from_numpy(np.asarray(xy, np.float32)).to(device) for xy in xys]
    weight = [keypoint_weights(c, config).to(device) for c in confidences]
    own = [make_curves(rig, len(xy), config) for rig, xy in zip(rigs, xys, strict=True)]
    actions = len(rigs[0].actions)
    parameters = Parameters(
        [
            (*curves.parameters(), to.new_zeros(len(to), actions), to.new_zeros(to.shape[1], 3))
            for curves, to in zip(own, targets, strict=True)
        ]
    )
    bases, told, order = stacked_curves(own, several.frames), Told.of(rigs[0]), own[0].order
    optimizer = track_optimizer(parameters.all, config)

    def loss(
        rig: FitRig, p: Any, bases: tuple[Tensor, Tensor], to: Tensor, weight: Tensor, *see: Tensor
    ) -> Tensor:  # fmt: skip
        viewmat, K, real = see
        through = partial(project_through, viewmat=viewmat, K=K)
        slow, quick, shift, actions, bias = p
        curves = Curves(slow, quick, shift, *bases, order)
        return track_loss(rig, curves, actions, bias, to, weight, through, told, config, real)

    fixed = (bases, several.stack(targets), several.stack(weight), *_matrices(cameras, device), several.real)
    for step in range(config.iterations):
        optimizer.clear()
        several.each(loss, parameters.all, *fixed).sum().backward()
        optimizer.step(track_decay(step, config))
    found = []
    for rig, curves, values, to, w, camera in zip(
        rigs, own, parameters.own, targets, weight, cameras, strict=True
    ):
        curves = _with(curves, values)
        found.append((curves, track_result(rig, curves, values[3], to, w, camera)))
    return found


def align_clips(
    rigs: Sequence[FitRig],
    tracks: Sequence[Track],
    pictures: Sequence[Pictures],
    xys: Sequence[np.ndarray],
    point_weights: Sequence[Tensor],
    hold_head: bool,
) -> list[Tensor]:
    """`align.align` of each."""
    device, several = rigs[0].rest.device, Several(rigs, [len(t.weights) for t in tracks])
    looks = [align.make_look(*of) for of in zip(rigs, tracks, xys, point_weights, strict=True)]
    transforms, weights, marks, marks_weight = (
        torch.stack([getattr(look, name) for look in looks])
        for name in ("transforms", "weights", "marks", "marks_weight")
    )
    matrices = _matrices([t.camera for t in tracks], device)
    free = torch.stack([align.freedom(rig, hold_head) for rig in rigs])
    found = torch.zeros_like(free)  # mm

    def beside(rig: FitRig, points: Tensor, shift: Tensor, marks: Tensor, weight: Tensor, *see: Tensor) -> Tensor:  # fmt: skip
        seen = project_through(points[:, rig.n_base :], *see)
        return align.TIE * losses.point_loss(seen, marks, weight) + align.STIFF * align.strain(rig, shift)

    for level in align.LEVELS:
        cameras = [align.shrunk(track.camera, level.shrink) for track in tracks]
        spread = torch.stack([align.spread_matrix(rig.node_rest, level.smooth) for rig in rigs])
        parameters = Parameters([[zero] for zero in torch.zeros_like(found)])
        optimizers = [FlooredAdam(own, [level.rate_mm]) for own in parameters.own]
        for step in range(level.steps):
            parameters.clear()
            shift = 1e-3 * (found + free * (spread @ parameters.all[0]))
            points = several.each(align.displaced_points, transforms, weights, shift)
            slopes = torch.zeros_like(points)
            for k, (rig, look, camera, shown) in enumerate(zip(rigs, looks, cameras, pictures, strict=True)):
                own = points[k, :, : rig.n_base].detach().requires_grad_()
                align.picture_loss(rig, own, look.how, camera, shown, look.chosen, level.shrink).backward()
                slopes[k, :, : rig.n_base] = _grad(own)
            rest = several.each(beside, points, shift, marks, marks_weight, *matrices)
            torch.autograd.backward([rest.sum(), points], [None, slopes])
            parameters.share_gradients()
            for optimizer in optimizers:
                optimizer.step(level.share(step))
        found = (found + free * (spread @ parameters.all[0])).detach()
    return list(1e-3 * found)


def refine_clips(
    rigs: Sequence[FitRig],
    curves: Sequence[Curves],
    tracks: Sequence[Track],
    clips: Sequence[Clip],
    config: FitConfig,
    progress: Progress = silent,
) -> list[Motion]:
    """`clip_refine.refine_clip` of each; only pictures are drawn in longer windows. Raises UserError when any of them diverges."""
    refinement = ClipsRefinement(rigs, curves, tracks, clips, config)
    optimizers = [FlooredAdam(own, rates(config)) for own in refinement.parameters.own]
    trouble = [0] * len(clips)
    for step in range(config.iterations):
        refinement.backward(turn=step % TURNS_EVERY == 0)
        finite = torch.stack([optimizer.finite() for optimizer in optimizers]).tolist()
        for k, (optimizer, ok) in enumerate(zip(optimizers, finite, strict=True)):
            trouble[k] += not ok
            if trouble[k] > TROUBLE:
                raise UserError("clip: the fit diverged (gradients are not finite)")
            if ok:
                optimizer.step(decay(step, config))
            else:
                optimizer.undo()
        progress(step + 1, config.iterations, "refine")
    return refinement.motions()


class ClipsRefinement:
    """What the steps of a refinement share: `parameters`, each clip's as `Motion.parameters`, and what they are held against."""

    def __init__(
        self,
        rigs: Sequence[FitRig],
        curves: Sequence[Curves],
        tracks: Sequence[Track],
        clips: Sequence[Clip],
        config: FitConfig,
    ) -> None:
        self.rigs, self.curves, self.clips, self.config = rigs, curves, clips, config
        self.several = Several(rigs, [len(t.weights) for t in tracks])
        nodes = len(rigs[0].node_rest)
        self.parameters = Parameters(
            [
                (
                    *own.parameters(),
                    track.weights,
                    *(track.weights.new_zeros(len(track.weights), nodes, *size) for size in ((3,), (3,), ())),
                )
                for own, track in zip(curves, tracks, strict=True)
            ]
        )
        self.cameras = [clip.camera for clip in clips]
        self.bases = stacked_curves(curves, self.several.frames)
        self.fixed = _fixed(self.several, tracks, clips, config, rigs[0].rest.device)
        self.turned = torch.empty(0)  # (C,T,N,4)

    def backward(self, turn: bool) -> None:
        """To every clip's parameters the gradients of its losses; turn: particles are turned as their bones are now."""
        parameters, several = self.parameters, self.several
        parameters.clear()
        rotvecs, translation, quats, points = several.each(self._posed, parameters.all, self.bases)
        if turn:
            self.turned = several.each(orient, quats.detach(), parameters.all[3], parameters.all[5])
        slopes, shades = torch.zeros_like(points), torch.zeros_like(parameters.all[6])
        for k in range(len(self.clips)):
            self._look(k, points, slopes, shades)
        rest = several.each(
            self._beside, parameters.all, self.bases, rotvecs, translation, points, self.fixed
        )
        torch.autograd.backward([rest.sum(), points, parameters.all[6]], [None, slopes, shades])
        parameters.share_gradients()

    def motions(self) -> list[Motion]:
        return [
            Motion(_with(own, values), *values[3:])
            for own, values in zip(self.curves, self.parameters.own, strict=True)
        ]

    def _look(self, k: int, points: Tensor, slopes: Tensor, shades: Tensor) -> None:
        """Of clip k, into its part: slopes of what its pictures show by points (C,T,P,3) and shades (C,T,K)."""
        rig, clip, config = self.rigs[k], self.clips[k], self.config
        frames, n = self.several.lengths[k], rig.n_base
        base = points[k, :frames, :n].detach().requires_grad_()
        shade = self.parameters.own[k][6].detach().requires_grad_()
        for window in windows(frames, DRAWN):
            how, colors = ride(rig, self.turned[k, window, :n]), shaded(rig, shade[window])
            image, alpha = draw(rig, base[window], how, colors, self.cameras[k])
            share = (window.stop - window.start) / frames
            (
                clip.share * share * losses.picture_loss(image, alpha, clip.seen_in(window), config.weights)
            ).backward()
        slopes[k, :frames, :n], shades[k, :frames] = _grad(base), _grad(shade)

    def _motion(self, p: Any, bases: tuple[Tensor, Tensor]) -> Motion:
        slow, quick, translation, *nodes = p
        return Motion(Curves(slow, quick, translation, *bases, self.curves[0].order), *nodes)

    def _posed(self, rig: FitRig, p: Any, bases: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Turns of the bones, translation (T,3), turns of the frames, points (T,P,3) of one clip."""
        m = self._motion(p, bases)
        rotvecs, translation = m.curves()
        transforms, quats = bones(rig, rotvecs, translation)
        return rotvecs, translation, quats, place(rig, transforms, m.weights, 1e-3 * m.shift, m.turn)

    def _beside(
        self, rig: FitRig, p: Any, bases: tuple[Tensor, Tensor], rotvecs: Tensor, translation: Tensor, points: Tensor,
        fixed: dict[str, Tensor],
    ) -> Tensor:  # fmt: skip
        """All of one clip's loss but for the pictures; points (T,P,3)."""
        config, w, motion = self.config, self.config.weights, self._motion(p, bases)
        see = partial(project_through, viewmat=fixed["viewmat"], K=fixed["K"])
        tracked, marks = see(points[:, fixed["particles"]]), see(points[:, rig.n_base :])

        def window(at: Tensor, inside: Tensor, share: Tensor) -> Tensor:
            loss = inside.new_zeros(())
            if w.tracks > 0 and len(fixed["particles"]):
                weight = fixed["seen"][at] * inside[:, None]
                loss = loss + w.tracks * losses.point_loss(tracked[at], fixed["targets"][at], weight)
            if w.keypoints > 0:
                weight = fixed["point_weight"][at] * inside[:, None]
                loss = loss + w.keypoints * keypoint_loss(marks[at], fixed["xy"][at], weight, config)
            return share * loss

        loss = torch.vmap(window)(fixed["at"], fixed["inside"], fixed["share"]).sum()
        loss = loss + 0.1 * pose_prior(rig, rotvecs, translation, config.track, fixed["real"])
        return loss + motion_prior(rig, motion, fixed["tracked"], fixed["highpass"], config, fixed["real"])


def _fixed(
    several: Several, tracks: Sequence[Track], clips: Sequence[Clip], config: FitConfig, device: torch.device
) -> dict[str, Tensor]:
    """What `ClipsRefinement` holds its parameters against beside pictures, (C,...)."""
    most = max(len(clip.particles) for clip in clips)
    frames = several.frames
    cut = [windows(n, config.batch) for n in several.lengths]
    many, long = max(map(len, cut)), max(w.stop - w.start for of in cut for w in of)
    at = np.zeros((len(clips), many, long), np.int64)
    inside = np.zeros((len(clips), many, long), np.float32)
    share = np.zeros((len(clips), many), np.float32)
    for k, of in enumerate(cut):
        for w, window in enumerate(of):
            size = window.stop - window.start
            at[k, w, :size], inside[k, w, :size] = np.arange(window.start, window.stop), 1
            share[k, w] = size / several.lengths[k]
    # The spectrum is a sum over frames that is divided by their number: here by that of the longest clip.
    highpass = [
        filled(filled(clip.highpass * (frames / n) ** 0.5, frames).T, frames).T
        for clip, n in zip(clips, several.lengths, strict=True)
    ]
    viewmat, K = _matrices([t.camera for t in tracks], device)
    return {
        "at": torch.from_numpy(at).to(device),
        "inside": torch.from_numpy(inside).to(device),
        "share": torch.from_numpy(share).to(device),
        "tracked": several.stack([t.weights for t in tracks]),
        "highpass": torch.stack(highpass),
        "particles": torch.stack([filled(clip.particles, most) for clip in clips]),
        "targets": several.stack([filled(clip.targets.transpose(0, 1), most).transpose(0, 1) for clip in clips]),
        "seen": several.stack([filled(clip.seen.T, most).T for clip in clips]),
        "xy": several.stack([clip.xy for clip in clips]),
        "point_weight": several.stack([clip.point_weight for clip in clips]),
        "viewmat": viewmat,
        "K": K,
        "real": several.real,
    }  # fmt: skip


def _with(curves: Curves, values: Sequence[Tensor]) -> Curves:
    """The curves with other coefficients, which may be learnt on."""
    slow, quick, shift = (value.detach().clone().requires_grad_() for value in values[:3])
    return replace(curves, slow=slow, quick=quick, shift=shift)


def _grad(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def _matrices(cameras: Sequence[Camera], device: torch.device) -> tuple[Tensor, Tensor]:
    """(C,4,4) and (C,3,3)"""
    found = zip(*(camera.tensors(device) for camera in cameras), strict=True)
    viewmat, K = (torch.stack(of) for of in found)
    return viewmat, K
