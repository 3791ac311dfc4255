"""One step of everything that computes on `run.device`, at the sizes of a profile, on made-up values.

The same functions that the stages run, so the counts cannot drift from them. On torch's meta device a step costs nothing, whatever
its size. Pictures are drawn by a stand-in there: what drawing costs is a model's matter (`cards`).

Legend: B windows, W frames a window, D latents, T frames of a clip, F rendered frames, N particles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core.clock import FPS, MEL_PER_FRAME
from avatar_core.device import Compute
from avatar_core.distill.train import DistillClip, Student, View, rendered_terms
from avatar_core.embed.batches import Batches, LatentClip
from avatar_core.embed.codec import REGIONS, MotionCodec
from avatar_core.embed.contrastive import Embedding, embedding_loss
from avatar_core.fit import clip_refine
from avatar_core.fit.nodes import NodeGraph
from avatar_core.fit.pictures import Pictures
from avatar_core.fit.rig import FitRig, SparseBlend
from avatar_core.fit.skeleton import make_skeleton
from avatar_core.fit.track import Track, make_curves, track_clip
from avatar_core.generator.model import Generator
from avatar_core.generator.train import MotionLoss, diffusion_loss
from avatar_core.geometry.camera import look_at
from avatar_core.particles.background import Background
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.deformation import LocalFrames
from avatar_core.particles.layout import ParticleLayout
from avatar_core.perception.tracks import TrackBinding
from avatar_core.score.clips import AUDIO_CONTEXT
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from avatar_core.template import load_template
from avatar_core.template.landmarks import KEYPOINTS
from stages.params import Params

NODES, EDGES, BLENDED = 360, 2160, 4  # of the fit, as `fit.nodes` makes them


@dataclass(frozen=True)
class Step:
    """What a stage does `times` times. run: forward and backward, after which `trained` have gradients.

    drawn: random numbers that the CPU draws for it. frames, splats, pixels: of each picture drawn, with gradients.
    """

    stage: str
    what: str
    times: float
    run: Callable[[], None]
    trained: int  # parameters, with two moments and an average each
    drawn: int = 0
    network: bool = True  # trains in run.precision
    frames: int = 0
    splats: int = 0
    pixels: int = 0


def steps(params: Params, compute: Compute) -> Iterator[Step]:
    """Of one run with these parameters."""
    yield _score(params, compute)
    yield from _fit(params, compute)
    yield _embed(params, compute)
    yield _generator(params, compute)
    yield _distill(params, compute)


def latents(params: Params) -> int:
    """D"""
    codec = params.embed.codec
    return codec.body_dims + codec.face_dims + codec.hand_dims


def particles(params: Params) -> int:
    """N, shells among them."""
    p = params.particles
    return p.face + 2 * p.hand + p.eyes + p.mouth_interior + p.body + p.shell


def clip_frames(params: Params) -> int:
    """T of a long clip."""
    return round(FPS * params.speech.max_seconds)


def train_clips(params: Params) -> int:
    s = params.speech
    return s.face_clips + s.waist_up_clips + s.full_body_clips


def _training(stage: str, model: nn.Module, times: int, loss: Callable[[], Tensor], **more: Any) -> Step:
    count = sum(p.numel() for p in model.parameters())
    return Step(stage, "step", times, lambda: loss().backward(), count, **more)


def _score(params: Params, compute: Compute) -> Step:
    c, device = cast(ScoreConfig, params.score.teacher), compute.device
    model, batch = ScoreNetwork(c).to(device).train(), c.batch
    clips = torch.rand(batch, c.frames, 3, c.size, c.size, device=device)
    mel = torch.rand(batch, MEL_PER_FRAME * (clips.shape[1] + 2 * AUDIO_CONTEXT), 80, device=device)
    times = torch.full((batch,), 500, device=device)
    silent = torch.zeros(batch, dtype=torch.bool, device=device)

    def loss() -> Tensor:
        with compute.autocast():
            return model.denoising_loss(clips, times, clips, mel, clips[:, 0], silent)

    return _training("score", model, c.steps, loss, drawn=clips.numel())


def _embed(params: Params, compute: Compute) -> Step:
    c = replace(params.embed.contrastive, dims=latents(params), mels=params.audio.features.bands)
    model = Embedding(c).to(compute.device)
    mel = torch.rand(c.batch, MEL_PER_FRAME * c.window, c.mels, device=compute.device)
    x = torch.rand(c.batch, c.window, c.dims, device=compute.device)
    return _training(
        "embed", model, c.steps, lambda: embedding_loss(model, mel, x, compute), drawn=mel.numel()
    )


def _new_generator(params: Params) -> Generator:
    codec = params.embed.codec
    dit = replace(params.generator.model.dit, dims=latents(params), mels=params.audio.features.bands)
    return Generator(
        replace(
            params.generator.model,
            dit=dit,
            audio=params.audio.to_dict(),
            body_dims=codec.body_dims,
            face_dims=codec.face_dims,
        )
    )


def _simple_loss(
    params: Params, model: Generator, config: Any, compute: Compute
) -> tuple[Callable[[], Tensor], int]:
    """L_simple on a batch of made-up windows, and how many numbers it draws."""
    codec, device = _codec(params), compute.device
    batch, window, dims = config.batch, config.window, codec.dims
    tables = SimpleNamespace(
        loss_metrics=torch.rand(3, dims, dims),
        has_lips=torch.ones(3, dtype=torch.bool),
        latent_masks=torch.ones(3, dims, dtype=torch.bool),
    )
    loss_of = MotionLoss(cast(Batches, tables), codec, config, compute)
    x = torch.rand(batch, window, dims, device=device)
    drawn = (
        torch.rand(batch, MEL_PER_FRAME * window, params.audio.features.bands, device=device),
        x,
        torch.rand(batch, window, device=device),
        torch.zeros(batch, dtype=torch.int64, device=device),
        torch.zeros(batch, dtype=torch.int64, device=device),
        x,
        torch.zeros(batch, dtype=torch.bool, device=device),
        torch.zeros(batch, 1, dtype=torch.int64, device=device),
    )
    slow = (
        2 * batch * (dims - params.embed.codec.face_dims) * (window + 100)
    )  # two fields, with their margins
    return lambda: diffusion_loss(model, loss_of, drawn, config, compute), drawn[0].numel() + x.numel() + slow


def _generator(params: Params, compute: Compute) -> Step:
    model = _new_generator(params).to(compute.device).train()
    loss, drawn = _simple_loss(params, model, params.generator.train, compute)
    return _training("generator", model, params.generator.train.steps, loss, drawn=drawn)


def _distill(params: Params, compute: Compute) -> Step:
    c, device = params.distill, compute.device
    generator, codec, canonical, layout = _new_generator(params), _codec(params), *_person(params)
    teacher = ScoreNetwork(cast(ScoreConfig, params.score.teacher)).to(device).eval()
    simple, drawn = _simple_loss(params, generator, c.simple, compute)
    student, person = Student(generator, codec).to(device).train(), LocalFrames(canonical, layout, device)
    total, size, shown = clip_frames(params), teacher.size, teacher.frames
    camera = look_at((0, -2.5, 1.5), (0, 0, 1.5), 17.0, size, size)
    motion = LatentClip(
        np.zeros((MEL_PER_FRAME * total, params.audio.features.bands), np.float32),
        np.zeros((total, codec.dims), np.float32),
        dict.fromkeys(REGIONS, True),
    )
    tracks = TrackBinding(np.arange(160), np.zeros((total, 160, 2), np.float32))
    frames, Ks = np.zeros((total, size, size, 3), np.uint8), np.repeat(camera.K[None], total, 0)
    view = View(camera.viewmat, Ks, frames, np.zeros((size, size, 3), np.float32), tracks, True)
    clip = DistillClip(motion, "A", view, np.zeros((MEL_PER_FRAME * total, 80), np.float32))
    rng = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        terms = rendered_terms(clip, person, student, teacher, None, c, rng, compute)
        return torch.stack([simple(), *terms.values()]).sum()

    trained = sum(p.numel() for p in student.parameters())
    return Step(
        "distill", "step", c.steps, lambda: loss().backward(), trained, drawn + shown * size**2 * 3,
        frames=shown, splats=particles(params), pixels=size**2,
    )  # fmt: skip


def _fit(params: Params, compute: Compute) -> Iterator[Step]:
    """Refinement and track of one clip seen from the waist up, each a step of the whole clip."""
    config, device, frames = params.fit, compute.device, clip_frames(params)
    canonical, _ = _person(params)
    template = load_template()
    n, points = canonical.n_base, canonical.n_base + len(KEYPOINTS)
    skeleton = make_skeleton(template.bone_names, template.bone_parents, template.bone_heads, "waist_up")
    bones, actions, shells = len(skeleton.names), len(template.face_actions), len(canonical) - n
    zeros = lambda *shape: torch.zeros(*shape, device=device)  # noqa: E731
    ids = lambda *shape: torch.zeros(*shape, dtype=torch.int64, device=device)  # noqa: E731
    blend, no_graph = cast(SparseBlend, _Blend(points)), cast(NodeGraph, None)
    rig = FitRig(
        canonical, skeleton.to(device), zeros(3, points), zeros(bones, points), zeros(actions, 3, points),
        zeros(actions, 3, n), blend, no_graph, zeros(NODES, 3), zeros(NODES), ids(EDGES, 2), zeros(EDGES),
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
    clip = clip_refine.make_clip(pictures, binding, xy, zeros(frames, len(KEYPOINTS)), config.cutoff_hz)
    leaves = [zeros(frames, *s).requires_grad_() for s in ((actions,), (NODES, 3), (NODES, 3), (NODES,))]
    motion = clip_refine.Motion(curves, *leaves)
    turns: dict[int, Tensor] = {}

    def tracked() -> None:
        with suppress(RuntimeError, NotImplementedError):  # without numbers it cannot say how it went
            track_clip(rig, xy, sure, camera, replace(config.track, iterations=1))

    trained = sum(p.numel() for p in motion.parameters())
    clips = train_clips(params)
    yield Step("fit", "track", clips * config.track.iterations, tracked, trained, network=False)
    yield Step(
        "fit", "refine", clips * config.iterations, lambda: _refine(rig, motion, track, clip, config, turns), trained,
        network=False, frames=frames, splats=particles(params), pixels=side**2,
    )  # fmt: skip


def _refine(rig: FitRig, motion: clip_refine.Motion, *more: Any) -> None:
    clip_refine.backward(rig, motion, *more)


class _Blend:
    """`fit.rig.SparseBlend` of made-up values: torch has no sparse tensors without numbers. Its work is small."""

    def __init__(self, points: int) -> None:
        self.points = points

    def __call__(self, dense: Tensor) -> Tensor:
        return dense.sum(0, keepdim=True).expand(self.points, -1)


def _codec(params: Params) -> MotionCodec:
    p = params.particles
    sizes = {"body": p.body, "face": p.face + p.eyes + p.mouth_interior, "hand": 2 * p.hand}
    codec = MotionCodec(params.embed.codec, sum(sizes.values()), sizes, 20, 40)
    starts = np.cumsum([0, *sizes.values()])
    for region, start in zip(sizes, starts, strict=False):
        codec.region(region).index.copy_(torch.arange(sizes[region]) + int(start))
    return codec.eval()


def _person(params: Params) -> tuple[Canonical, ParticleLayout]:
    """Somebody of the right number of particles."""
    p = params.particles
    frame = np.repeat([0, 1, 2, 3], [p.body, p.face + p.eyes + p.mouth_interior, p.hand, p.hand]).astype(
        np.uint8
    )
    n, count = len(frame), particles(params)
    means = np.random.default_rng(0).normal((0, 0, 1.2), 0.1, (count, 3)).astype(np.float32)
    still, whole = np.zeros((count, 3), np.float32), np.eye(4, dtype=np.float32)[np.zeros(count, int)]
    canonical = Canonical(
        means, whole, still - 5, np.zeros(count, np.float32), still, np.zeros(count, np.uint8),
        np.minimum(np.arange(count), n - 1).astype(np.int32), np.zeros((count, 8), np.int32), np.zeros(0, np.float32), n,
        1.7, 0.001, Background.plain(np.zeros(3)), np.zeros((0, 3), np.float32), np.ones(2, np.float32),
    )  # fmt: skip
    carriers = {"head": np.arange(40), "wrist_left": np.arange(40, 60), "wrist_right": np.arange(60, 80)}
    flat = np.zeros((n, 3), np.float32)
    layout = ParticleLayout(
        triangles=flat.astype(np.int32), barycentric=flat, spacing=flat[:, 0], frame=frame, region=frame, carriers=carriers,
        lips_upper=np.arange(2), lips_lower=np.arange(2), template_positions=flat,
    )  # fmt: skip
    return canonical, layout
