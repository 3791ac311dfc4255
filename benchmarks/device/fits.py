"""Steps of stage fit: several portraits at once, and several clips, as a card takes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import cast

import numpy as np
import torch
from torch import Tensor

from avatar_core.device import Compute
from avatar_core.fit import clip_refine, together
from avatar_core.fit.nodes import NodeGraph
from avatar_core.fit.pictures import Pictures
from avatar_core.fit.rig import FitRig, SparseBlend
from avatar_core.fit.skeleton import make_skeleton
from avatar_core.fit.track import Track, make_curves
from avatar_core.geometry.camera import look_at
from avatar_core.perception.tracks import TrackBinding
from avatar_core.personalise.appearance import PortraitParticles
from avatar_core.personalise.personalise import FACE_CROP_PX, WORK_PX
from avatar_core.personalise.refine_together import PortraitsRefinement, Portrayed
from avatar_core.personalise.view import View
from avatar_core.template import load_template
from avatar_core.template.landmarks import KEYPOINTS
from benchmarks.device.step import Step, clip_frames, particles, somebody, train_clips
from stages.memory import MOST
from stages.params import Params

NODES, EDGES, BLENDED = 360, 2160, 4  # of the fit, as `fit.nodes` makes them


def portraits(params: Params, compute: Compute) -> Iterator[Step]:
    """Both phases of the refinement, with the closer look at the face that every other step takes."""
    config, people = params.avatar.refine, params.identities.total
    many, side = min(MOST, people), min(WORK_PX, params.identities.portrait_size)
    canonical, _ = somebody(params)
    count = len(canonical)
    placed = PortraitParticles(
        canonical.means, canonical.quats, canonical.log_scales, canonical.logit_opacities, canonical.colors,
        canonical.region, canonical.anchor, np.ones(count, bool), np.ones(count), canonical.n_base,
    )  # fmt: skip
    picture, mask = np.zeros((side, side, 3), np.float32), np.ones((side, side), np.float32)
    view = View.of(look_at((0, -2.5, 1.2), (0, 0, 1.2), 25.0, side, side), picture, picture, mask, picture)
    one = Portrayed(placed, view, view.crop(side // 4, side // 4, side // 2, FACE_CROP_PX))
    backdrop = torch.zeros(3, device=compute.device)
    for sharp, steps in ((False, config.steps), (True, config.sharp_steps)):
        made = cache(lambda sharp=sharp: PortraitsRefinement([one] * many, config, sharp, 1, compute))
        pixels = (side if sharp else side // 2) ** 2 + FACE_CROP_PX**2 / 2
        yield Step(
            "fit", f"{'sharp' if sharp else 'coarse'}, {many} portraits", people / many * steps,
            lambda made=made: made().backward(backdrop, closer=True), 13 * many * count, network=False,
            frames=many, splats=particles(params), pixels=pixels,
        )  # fmt: skip


def clips(params: Params, compute: Compute) -> Iterator[Step]:
    """Track and refinement of clips seen from the waist up, each a step of all frames."""
    config, device, frames = params.fit, compute.device, clip_frames(params)
    canonical, _ = somebody(params)
    template = load_template()
    n, points = canonical.n_base, canonical.n_base + len(KEYPOINTS)
    skeleton = make_skeleton(template.bone_names, template.bone_parents, template.bone_heads, "waist_up")
    bones, actions, shells = len(skeleton.names), len(template.face_actions), len(canonical) - n
    zeros = lambda *shape: torch.zeros(*shape, device=device)  # noqa: E731
    ids = lambda *shape: torch.zeros(*shape, dtype=torch.int64, device=device)  # noqa: E731
    blend, no_graph = cast(SparseBlend, _Blend(points)), cast(NodeGraph, None)
    rig = FitRig(
        canonical, skeleton.to(device), zeros(3, points), zeros(bones, points), zeros(actions, 3, points),
        zeros(actions, 3, n), blend, no_graph, zeros(NODES, 3), zeros(NODES), zeros(NODES), ids(EDGES, 2), zeros(EDGES),
        zeros(n, 4), ids(shells), zeros(shells, 3), zeros(n + shells, 3), zeros(n + shells), zeros(n + shells, 3),
        zeros(shells, 4), 1.7, tuple(template.face_action_names),
    )  # fmt: skip
    side = params.teacher.size
    camera = look_at((0, -2.5, 1.2), (0, 0, 1.2), 25.0, side, side)
    flat = zeros(frames, side, side)
    pictures = Pictures(zeros(frames, 3, side, side), flat, zeros(3, side, side), flat, flat > 0, flat > 0)
    curves = make_curves(rig, frames, config.track)
    rotvecs, translation = (value.detach() for value in curves())
    xy, sure = (
        np.zeros((frames, len(KEYPOINTS), 2), np.float32),
        np.ones((frames, len(KEYPOINTS)), np.float32),
    )
    track = Track(rotvecs, translation, zeros(frames, actions), camera, zeros(frames))
    binding = TrackBinding(np.arange(160), np.zeros((frames, 160, 2), np.float32))
    clip = clip_refine.make_clip(
        pictures, camera, binding, xy, zeros(frames, len(KEYPOINTS)), config.cutoff_hz
    )
    total = train_clips(params)
    many = min(MOST, total)

    def tracked() -> None:
        with suppress(RuntimeError, NotImplementedError):  # without numbers it cannot say how it went
            once = replace(config.track, iterations=1)
            together.track_clips([rig] * many, [xy] * many, [sure] * many, [camera] * many, once)

    made = cache(
        lambda: together.ClipsRefinement([rig] * many, [curves] * many, [track] * many, [clip] * many, config)
    )
    trained = many * (sum(p.numel() for p in curves.parameters()) + frames * (actions + 7 * NODES))
    yield Step(
        "fit", f"track, {many} clips", total / many * config.track.iterations, tracked, trained, network=False
    )
    yield Step(
        "fit", f"refine, {many} clips", total / many * config.iterations, lambda: made().backward(turn=True), trained,
        network=False, frames=many * frames, splats=particles(params), pixels=side**2,
    )  # fmt: skip


class _Blend:
    """`fit.rig.SparseBlend` of made-up values: torch has no sparse tensors without numbers. Its work is small."""

    def __init__(self, points: int) -> None:
        self.points = points

    def __call__(self, dense: Tensor) -> Tensor:
        return dense.sum(0, keepdim=True).expand(self.points, -1)

    def rows(self, index: np.ndarray) -> _Blend:
        return _Blend(len(index))

    def beside(self, _: object) -> _Blend:
        return self
