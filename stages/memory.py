"""Does a stage fit on the GPU? Asked before it starts, because nobody waits for hours to hear that it does not.

A declared estimate from the parameters alone: what autograd keeps grows with a few products of sizes, whose factors were read off
the counts of `benchmarks.device --plan` (a test compares the two at every profile). No GPU was there to measure on.
"""

from __future__ import annotations

from typing import Any

from avatar_core.clock import FPS
from avatar_core.device import Compute, card_memory
from avatar_core.errors import UserError
from stages.params import Params

CONTEXT, SPARE, BF16 = 0.8e9, 1.25, 0.6  # of a process; of the allocator; of what is kept in fp32
SHARING = ("fit", "evaluate")  # run.workers processes, each with a clip of its own
MOST = 8  # clips in common steps: of so many, starting the kernels is a small part
STATE = 20  # bytes a trained number: weight, gradient, two moments, average


def check_memory(stage: str, params: Params, compute: Compute) -> None:
    """Raises UserError where a card has less memory free than the stage is estimated to need."""
    if not compute.on_card:
        return
    need, first = needed(stage, params), int(compute.device.split(":")[1])
    for card in range(first, first + params.run.processes):
        free, name = card_memory(card)
        if free < need:
            many = f" and {params.run.workers} workers" if stage in SHARING else ""
            raise UserError(
                f"run.device: expected {need / 1e9:.1f} GB free for {stage} at these sizes{many} (docs/gpu.md), found "
                f"{free / 1e9:.1f} GB on cuda:{card}, {name}"
            )


def needed(stage: str, params: Params) -> float:
    """Bytes on each card, of all processes of the stage that share it."""
    p, run = params.particles, params.run
    particles = p.face + 2 * p.hand + p.eyes + p.mouth_interior + p.body + p.shell
    if stage in SHARING:
        kept = _fitted(params) if stage == "fit" else 200 * 16 * particles
        return run.workers * (CONTEXT + SPARE * kept)
    kept, trained = _trained(stage, params, particles)
    return CONTEXT + SPARE * (kept * (BF16 if run.precision == "bf16" else 1) + STATE * trained)


def fit_at_once(params: Params, compute: Compute) -> int:
    """Clips, or portraits, that a worker of fit takes at once: one on the CPU, else what its part of the card holds, up to MOST."""
    if not compute.on_card:
        return 1
    free, _ = card_memory(int(compute.device.split(":")[1]))
    room = free / params.run.workers - CONTEXT
    return max(1, min(MOST, int(room / (SPARE * _fitted(params)))))


def _fitted(params: Params) -> float:
    """Bytes that a long clip keeps in a step of the refinement."""
    p, frames = params.particles, round(FPS * params.speech.max_seconds)
    particles = p.face + 2 * p.hand + p.eyes + p.mouth_interior + p.body + p.shell
    side = max(params.teacher.size, params.teacher.full_body_size)
    return 52 * frames * particles + 28 * frames * side**2


def _trained(stage: str, params: Params, particles: int) -> tuple[float, float]:
    """Bytes that autograd keeps in fp32 of a process's part of a step, and trained numbers."""
    share = 1 / params.run.processes
    if stage == "score":
        c: Any = params.score.teacher
        if not hasattr(c, "channels"):  # another backend, whose size is its own business
            return 0.0, 0.0
        clips = c.batch * c.frames * c.size**2
        return share * 52 * clips * c.channels[0], 85 * sum(n * n for n in c.channels)
    if stage == "embed":
        e = params.embed.contrastive
        return share * 400 * e.batch * e.window * e.audio_channels / 8, 1e6
    net = params.generator.model.dit
    blocks = net.audio_blocks + net.motion_blocks
    trained = 12 * net.channels**2 * blocks
    batch = params.distill.simple if stage == "distill" else params.generator.train
    kept = share * batch.batch * batch.window * net.channels * (420 + 52 * blocks)
    if stage == "distill":
        frames = getattr(params.score.teacher, "frames", 16)
        kept += share * params.distill.clips * 400 * frames * particles
    return kept, trained
