"""What is counted: a step of a stage, and the sizes that profiles give it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from avatar_core.clock import FPS
from avatar_core.particles.background import Background
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.layout import ParticleLayout
from stages.params import Params


@dataclass(frozen=True)
class Step:
    """What a stage does `times` times. run: forward and backward, after which `trained` have gradients.

    drawn: random numbers that the CPU draws for it. frames, splats, pixels: of each picture drawn, with gradients where any are
    trained.
    """

    stage: str
    what: str
    times: float
    run: Callable[[], None]
    trained: int  # parameters, with two moments and an average each
    drawn: int = 0
    network: bool = True  # trains in run.precision
    frames: float = 0
    splats: int = 0
    pixels: float = 0


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


def somebody(params: Params) -> tuple[Canonical, ParticleLayout]:
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
