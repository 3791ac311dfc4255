"""One step of everything that computes on `run.device`, at the sizes of a profile, on made-up values.

The same functions that the stages run, so the counts cannot drift from them. On torch's meta device a step costs nothing, whatever
its size. Pictures are drawn by a stand-in there: what drawing costs is a model's matter (`cards`).

Legend: B windows, W frames a window, D latents, T frames of a clip, F rendered frames, N particles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core.clock import MEL_PER_FRAME
from avatar_core.device import Compute
from avatar_core.distill.train import DistillClip, Student, View, rendered_terms
from avatar_core.embed.batches import Batches, LatentClip
from avatar_core.embed.codec import REGIONS, MotionCodec
from avatar_core.embed.contrastive import Embedding, embedding_loss
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import encode_audio, sample
from avatar_core.generator.train import MotionLoss, diffusion_loss
from avatar_core.geometry.camera import look_at
from avatar_core.particles.deformation import LocalFrames
from avatar_core.particles.splats import rasterize_splats
from avatar_core.perception.tracks import TrackBinding
from avatar_core.score.clips import AUDIO_CONTEXT
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from avatar_core.speak.render import CHUNK
from benchmarks.device.fits import clips, portraits
from benchmarks.device.step import Step, clip_frames, latents, particles, somebody
from stages.evaluate import DRIVEN
from stages.params import Params


def steps(params: Params, compute: Compute) -> Iterator[Step]:
    """Of one run with these parameters."""
    yield _score(params, compute)
    yield from portraits(params, compute)
    yield from clips(params, compute)
    yield _embed(params, compute)
    yield _generator("generator", params, params.generator.train.steps, compute)
    if params.baseline.steps:
        yield _generator("baseline", params, params.baseline.steps, compute)
    yield _distill(params, compute)
    yield _evaluate(params, compute)


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


def _generator(stage: str, params: Params, times: int, compute: Compute) -> Step:
    model = _new_generator(params).to(compute.device).train()
    loss, drawn = _simple_loss(params, model, params.generator.train, compute)
    return _training(stage, model, times, loss, drawn=drawn)


def _distill(params: Params, compute: Compute) -> Step:
    c, device = params.distill, compute.device
    generator, codec, canonical, layout = _new_generator(params), _codec(params), *somebody(params)
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


def _evaluate(params: Params, compute: Compute) -> Step:
    """Motion and pictures of one row's clip, without what is heard and the two filters at the end, which ask for numbers."""
    frames, side, device = clip_frames(params), params.teacher.size, compute.device
    generator, codec = _new_generator(params).to(device).eval(), _codec(params).to(device)
    local, camera = (
        LocalFrames(*somebody(params), device),
        look_at((0, -2.5, 1.2), (0, 0, 1.2), 25.0, side, side),
    )
    heard = torch.rand(frames, MEL_PER_FRAME, params.audio.features.bands, device=device).flatten(0, 1)
    x = torch.zeros(frames, codec.dims, device=device)

    @torch.no_grad()
    def run() -> None:
        with suppress(RuntimeError, NotImplementedError):
            sample(generator, encode_audio(generator, heard), 0, params.sample)
        for start in range(0, frames, CHUNK):
            rasterize_splats(local.compose(codec.decode(x[start : start + CHUNK])), camera)

    rows = len(DRIVEN) - (params.baseline.steps == 0)
    times = params.identities.test * params.speech.test_clips * rows
    return Step(
        "evaluate", "a row's clip", times, run, 0, frames * codec.dims, network=False,
        frames=frames, splats=particles(params), pixels=side**2,
    )  # fmt: skip


def _codec(params: Params) -> MotionCodec:
    p = params.particles
    sizes = {"body": p.body, "face": p.face + p.eyes + p.mouth_interior, "hand": 2 * p.hand}
    codec = MotionCodec(params.embed.codec, sum(sizes.values()), sizes, 20, 40)
    starts = np.cumsum([0, *sizes.values()])
    for region, start in zip(sizes, starts, strict=False):
        codec.region(region).index.copy_(torch.arange(sizes[region]) + int(start))
    return codec.eval()
