"""End-to-end fine-tuning: audio -> F -> refiner -> decoder -> compose -> splats -> teacher's pictures, tracks and score.

Source: paper section "Video Diffusion Distillation" and its total objective: L_simple + VSD + trajectories + L1 + ARAP, with
gradients through renderer and decoder into the generator. Each step takes a batch of latent windows for L_simple and F
consecutive frames of one clip to render. The decoder's residual networks learn along; its linear basis stays.

Shapes: T frames of a clip, F rendered frames, N particles, M tracks, H x W pixels, D latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core import ranks
from avatar_core.audio.backends import AudioFeatures
from avatar_core.audio.mel import CLEAN
from avatar_core.clock import MEL_PER_FRAME
from avatar_core.device import CPU, Compute
from avatar_core.distill.config import DistillConfig
from avatar_core.distill.losses import (
    arap_loss,
    draw_score,
    picture_loss,
    trajectory_loss,
    vsd_loss,
)
from avatar_core.embed.batches import Batches, LatentClip
from avatar_core.embed.codec import MotionCodec
from avatar_core.errors import UserError
from avatar_core.generator.model import Generator
from avatar_core.generator.train import MotionLoss, diffusion_loss, draw_windows
from avatar_core.geometry.camera import Camera, project
from avatar_core.io.rows import Rows
from avatar_core.networks.diffusion import add_noise
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.deformation import LocalFrames
from avatar_core.particles.layout import ParticleLayout
from avatar_core.particles.splats import rasterize_splats
from avatar_core.perception.tracks import TrackBinding
from avatar_core.progress import Progress, silent
from avatar_core.score import ScoreTeacher
from avatar_core.score.clips import AUDIO_CONTEXT, pad_mel, to_signed
from avatar_core.training.loop import History, Loop, run_loop
from avatar_core.training.state import fingerprint_of

MOST_PEOPLE = 32  # whose avatars are kept at once


@dataclass(frozen=True)
class View:
    """What the teacher shows of a clip: viewmat (4,4), intrinsics Ks (T,3,3) (a window may follow the mouth), frames
    (T,H,W,3) uint8, background (3,) or (H,W,3). In memory, or on disk, where a step reads what it needs.

    tracks are in this view's pixels. scored: seen as the score teacher knows clips, so that VSD applies.
    """

    viewmat: np.ndarray
    Ks: np.ndarray | Rows
    frames: np.ndarray | Rows
    background: np.ndarray | Rows
    tracks: TrackBinding | None = None
    scored: bool = False

    def camera(self, frames: slice) -> Camera:
        """Of some of the frames, K (F,3,3)."""
        height, width = self.frames.shape[1:3]
        return Camera(self.viewmat, self.Ks[frames], width, height)


@dataclass(frozen=True)
class DistillClip:
    motion: LatentClip
    identity: str
    view: View
    log_mel: np.ndarray | Rows  # (4T,M), what the score teacher hears


class Student(nn.Module):
    """What is trained together: the generator and the codec. noise: what the generator's motion starts from."""

    def __init__(self, generator: Generator, codec: MotionCodec) -> None:
        super().__init__()
        self.generator, self.codec = generator, codec
        self.noise = generator.noise_maker()


def train_student(
    clips: Sequence[DistillClip],
    canonicals: Mapping[str, Canonical],
    layout: ParticleLayout,
    generator: Generator,
    codec: MotionCodec,
    teacher: ScoreTeacher,
    config: DistillConfig = DistillConfig(),
    audio: AudioFeatures = CLEAN,
    checkpoint_dir: Path | None = None,
    progress: Progress = silent,
    compute: Compute = CPU,
) -> tuple[Generator, MotionCodec, History]:
    """Fine-tune generator and codec in place, on the device; returns their averages and the loss terms of every step.

    A step renders as many frames of each of `config.clips` clips as the teacher sees, whether it is asked or not. canonicals: by
    identity. Several processes need a multiple of clips, and no variational score.
    """
    weights = config.weights
    torch.manual_seed(config.seed)
    rng = torch.Generator().manual_seed(config.seed + 1)
    device = compute.device
    person = lru_cache(MOST_PEOPLE)(lambda name: LocalFrames(canonicals[name], layout, device))
    for name in sorted({c.identity for c in clips})[:MOST_PEOPLE]:
        person(name)
    batches = Batches([c.motion for c in clips], codec, config.simple, audio)
    loss_of = MotionLoss(batches, codec, config.simple, compute)
    student = Student(generator, codec)
    mark = fingerprint_of(
        config, arrays=chain((c.motion.x for c in clips), (v.numpy() for v in student.state_dict().values()))
    )
    student.to(device)
    teacher = teacher.to(device)
    trained = [*generator.parameters(), *decoder_parameters(codec)]
    fake = _fake_score(teacher, config) if config.variational else None

    def losses() -> dict[str, Tensor]:
        with ranks.share(*draw_windows(batches, audio, student.noise, config.simple, rng)) as part:
            simple = diffusion_loss(generator, loss_of, compute.put(*part), config.simple, compute)
        rendered: list[dict[str, Tensor]] = []
        for k in range(config.clips):
            clip = clips[int(torch.randint(len(clips), (1,), generator=rng, device="cpu"))]
            mine = k % ranks.count() == ranks.number()
            found = rendered_terms(
                clip, person(clip.identity), student, teacher, fake, config, rng, compute, mine
            )
            rendered += [found] if mine else []
        parts = [(name, value) for terms in rendered for name, value in terms.items()]
        means = {
            n: torch.stack([v for m, v in parts if m == n]).mean() for n in dict.fromkeys(n for n, _ in parts)
        }
        total = torch.stack(
            [weights.simple * simple, *(getattr(weights, n) * v / len(rendered) for n, v in parts)]
        ).sum()
        return {"loss": total, "simple": simple, **means}

    history = run_loop(
        Loop(
            "distill", config.steps, config.learning_rate, config.ema, config.checkpoint_every, warmup=10,
            clip_norm=config.clip_norm, report_every=1,
        ),
        student,
        compute.adamw(trained, lr=config.learning_rate, weight_decay=0.01),
        rng,
        losses,
        fingerprint=mark,
        checkpoint_dir=checkpoint_dir if fake is None else None,  # the fake score's state is not kept
        progress=progress,
    )  # fmt: skip
    return generator, codec, history


def rendered_terms(
    clip: DistillClip,
    person: LocalFrames,
    student: Student,
    teacher: ScoreTeacher,
    fake: tuple[ScoreTeacher, torch.optim.Optimizer] | None,
    config: DistillConfig,
    rng: torch.Generator,
    compute: Compute = CPU,
    mine: bool = True,
) -> dict[str, Tensor]:
    """The terms that need F consecutive frames of one clip, rendered: l1, vsd, trajectory, arap. rng: of the CPU.

    A clip that is another process's (not mine) is drawn all the same, and only that: none.
    """
    view, weights = clip.view, config.weights
    total, count = len(clip.motion.x), teacher.frames
    start = int(torch.randint(max(1, total - count + 1), (1,), generator=rng, device="cpu"))
    frames = slice(start, min(start + count, total))
    # The score's draws come from a seed of their own: with or without it, everything else is drawn the same.
    seed = int(torch.randint(2**31 - 1, (1,), generator=rng, device="cpu"))
    score_draws = torch.Generator().manual_seed(seed)
    with torch.set_grad_enabled(mine):
        latents = predict_window(student, clip.motion, frames, rng, compute)
    if not mine:
        return {}
    splats = person.compose(student.codec.decode(latents, person.canonical.stature))
    means, n = splats.means, person.n_base
    camera = view.camera(frames)
    terms = {}
    if weights.arap > 0:
        terms["arap"] = arap_loss(means[:, :n], person.knn, person.rest.means[:n])
    if view.tracks is not None and len(view.tracks.particles) and weights.trajectory > 0:
        particles, targets = compute.put(
            torch.from_numpy(np.asarray(view.tracks.particles)), torch.from_numpy(view.tracks.targets[frames])
        )
        points = project(means[:, particles], camera)
        terms["trajectory"] = trajectory_loss(points, targets, float(camera.width))
    scored = view.scored and weights.vsd > 0 and len(means) == count
    if weights.l1 > 0 or scored:
        background, pictures = compute.put(
            torch.from_numpy(np.asarray(view.background, np.float32)),
            torch.from_numpy(np.ascontiguousarray(view.frames[frames])),
        )
        images, _ = rasterize_splats(
            splats, camera, background=background, eps2d=person.canonical.eps2d(camera)
        )
        terms["l1"] = picture_loss(images, pictures.float() / 255)
        if scored:
            terms["vsd"] = _vsd(images, clip, start, teacher, fake, config, score_draws, compute)
    return terms


def predict_window(
    student: Student, motion: LatentClip, frames: slice, rng: torch.Generator, compute: Compute = CPU
) -> Tensor:
    """x0 (F,D) of some frames, with gradients: noisy truth at a random step -> F -> refiner."""
    total, generator = len(motion.x), student.generator
    context = 2 * generator.context
    a, b = max(0, frames.start - context), min(total, frames.stop + context)
    x = torch.from_numpy(np.asarray(motion.x[a:b], np.float32))[None]
    mel = torch.from_numpy(np.asarray(motion.audio[MEL_PER_FRAME * a : MEL_PER_FRAME * b], np.float32))[None]
    timesteps = torch.randint(200, 1000, (1,), generator=rng, device="cpu")
    noise = student.noise(1, x.shape[1], rng)
    time = torch.arange(a, b, device="cpu")[None]
    x, mel, timesteps, noise, time = compute.put(x, mel, timesteps, noise, time)
    known = student.codec.latent_mask(motion.visible)
    noisy = torch.where(known, add_noise(x, noise, timesteps), noise)
    with compute.autocast():
        features = generator.encode_audio(mel)
        x0 = generator.predict(noisy, timesteps, features)
        x0 = generator.refine(x0, features, time)
    return x0[0, frames.start - a : frames.stop - a]


def decoder_parameters(codec: MotionCodec) -> list[nn.Parameter]:
    """The codec's trainable part: the decoder's residual networks."""
    return [p for name, p in codec.named_parameters() if "decoder_residual" in name]


def _vsd(
    images: Tensor,
    clip: DistillClip,
    start: int,
    teacher: ScoreTeacher,
    fake: tuple[ScoreTeacher, torch.optim.Optimizer] | None,
    config: DistillConfig,
    rng: torch.Generator,
    compute: Compute,
) -> Tensor:
    rendered = (images.movedim(-1, -3) * 2 - 1)[None]
    size = teacher.size
    if rendered.shape[-1] != size or rendered.shape[-2] != size:
        raise UserError(f"distill: expected scored views of {size} px, found {tuple(rendered.shape[-2:])}")
    mel = pad_mel(clip.log_mel)[
        MEL_PER_FRAME * start : MEL_PER_FRAME * (start + teacher.frames + 2 * AUDIO_CONTEXT)
    ][None]
    seen = np.ascontiguousarray(clip.view.frames[teacher.reference_frame(start)])
    mel, reference = compute.put(mel, to_signed(torch.from_numpy(seen))[None])
    with compute.autocast():
        x = teacher.encode(rendered)
    if fake is not None:
        _learn_fake_score(fake, x.detach(), mel, reference, rng, compute)
    drawn = compute.put(*draw_score(x.shape, rng, config.vsd_tau))
    with compute.autocast():
        return vsd_loss(
            x, teacher, mel, reference, *drawn, guidance=config.vsd_guidance,
            fake_score=fake[0] if fake is not None else None,
        )  # fmt: skip


def _fake_score(teacher: ScoreTeacher, config: DistillConfig) -> tuple[ScoreTeacher, torch.optim.Optimizer]:
    model = teacher.copy()
    return model, torch.optim.AdamW(model.parameters(), lr=config.variational_rate)


def _learn_fake_score(
    fake: tuple[ScoreTeacher, torch.optim.Optimizer],
    x: Tensor,
    mel: Tensor,
    reference: Tensor,
    rng: torch.Generator,
    compute: Compute = CPU,
) -> None:
    """One step of the fake score's denoising of the rendered clips x, weighted as the teacher's training is."""
    model, optimizer = fake
    timesteps, noise = compute.put(
        torch.randint(100, 1000, (len(x),), generator=rng, device="cpu"),
        torch.randn(x.shape, generator=rng, device="cpu"),
    )
    with compute.autocast():
        loss = model.denoising_loss(x, timesteps, noise, mel, reference)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
