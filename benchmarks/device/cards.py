"""What a step does, counted without doing it, and what that takes on a GPU: a model, whose assumptions are printed with it.

Counts: floating-point operations by the formulas of torch's own counter, bytes that kernels read and write, kernels, bytes that
autograd keeps for the backward pass. Nothing of it was measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from avatar_core.particles import splats
from avatar_core.personalise import refine_together
from benchmarks.device.step import Step

GIGA = 1e9


@dataclass(frozen=True)
class Card:
    """Published peaks: operations a second in bf16 and fp32, bytes a second, bytes."""

    name: str
    bf16: float
    fp32: float
    bandwidth: float
    memory: float


CARDS = (
    Card("H100 SXM 80 GB", 989e12, 67e12, 3.35e12, 80e9),
    Card("RTX 4090 24 GB", 165e12, 83e12, 1.01e12, 24e9),
)
COMPUTE_SHARE, BANDWIDTH_SHARE = 0.35, 0.6  # of the peaks
LAUNCH_S = 8e-6  # a kernel, from Python, forward or backward
DRAW_S = 1 / 150e6  # a normal random number on one thread of a CPU
# gsplat's own page on batches (docs/batch.md, GPU not named): 16 scenes of 10 000 Gaussians, 640 x 360 px, packed=False
DRAW_FORWARD_S, DRAW_BACKWARD_S, DRAW_CALL_S = 0.93e-3 / 16, 2.84e-3 / 16, 0.4e-3
DRAW_SPLATS, DRAW_PIXELS = 10_000, 640 * 360
KEPT_BF16 = 0.6  # of the bytes that autograd keeps in fp32
CONTEXT_BYTES, SPARE = 0.8e9, 1.25  # CUDA and its libraries; what the allocator wastes
ASSUMPTIONS = (
    f"networks reach {COMPUTE_SHARE:.0%} of the card's peak operations, {BANDWIDTH_SHARE:.0%} of its bandwidth",
    f"a kernel costs {LAUNCH_S * 1e6:.0f} us to start from Python; device and CPU work at once, the slower one counts",
    "the CPU draws 150 million random numbers a second, on one thread, not ahead of the step",
    f"drawing: gsplat's published {DRAW_FORWARD_S * 1e6:.0f} + {DRAW_BACKWARD_S * 1e6:.0f} us a frame of 10 000 Gaussians at "
    "640 x 360 px, half of it in proportion to Gaussians, half to pixels, the same on both cards",
    f"in bf16 autograd keeps {KEPT_BF16:.0%} of what it keeps in fp32; weights, gradients, moments and the average stay in fp32",
    f"{CONTEXT_BYTES / GIGA:.1f} GB for CUDA, and a quarter on top of everything",
    "memory is what autograd keeps, weights and moments: nothing of evaluate, which learns nothing",
    "not in it: what stays on the CPU (detectors, mattes, videos, metrics, layout), reading of clips, the phoneme encoder",
)


@dataclass(frozen=True)
class Count:
    flops: float
    bytes: float
    kernels: int
    kept: float  # bytes that autograd keeps


@dataclass(frozen=True)
class Prediction:
    """Of one step on one card: seconds of the device, of the CPU, of the longer one; bytes."""

    device_s: float
    host_s: float
    memory: float

    @property
    def step_s(self) -> float:
        return max(self.device_s, self.host_s)


class _Tally(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops, self.bytes, self.kernels = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        if not func.is_view and func.namespace == "aten":
            touched = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in touched)
            self.kernels += 1
        return out


class _Kept:
    """Bytes that autograd keeps: now, and at most so far. A storage counts once."""

    def __init__(self) -> None:
        self.holders: dict[int, int] = {}
        self.now = self.most = 0

    def hold(self, tensor: Tensor) -> _Held:
        return _Held(self, tensor)


class _Held:
    """A tensor as long as autograd keeps it."""

    def __init__(self, ledger: _Kept, tensor: Tensor) -> None:
        self.ledger, self.tensor = ledger, tensor
        storage = tensor.untyped_storage()
        self.key, self.bytes = storage._cdata, storage.nbytes()
        ledger.holders[self.key] = ledger.holders.get(self.key, 0) + 1
        if ledger.holders[self.key] == 1:
            ledger.now += self.bytes
            ledger.most = max(ledger.most, ledger.now)

    def __del__(self) -> None:
        self.ledger.holders[self.key] -= 1
        if self.ledger.holders[self.key] == 0:
            self.ledger.now -= self.bytes


def count(step: Step) -> Count:
    """What `step.run` does. Made on the meta device it costs no time and no memory."""
    kept = _Kept()
    with _without_pictures():
        step.run()  # what is kept between steps is made now
        with torch.autograd.graph.saved_tensors_hooks(kept.hold, lambda held: held.tensor):
            step.run()
        with _Tally() as tally:
            step.run()
    return Count(tally.flops, tally.bytes, tally.kernels, kept.most)


def predict(step: Step, counted: Count, card: Card, bf16: bool) -> Prediction:
    half = bf16 and step.network
    work = counted.flops / (COMPUTE_SHARE * (card.bf16 if half else card.fp32))
    moved = counted.bytes * (KEPT_BF16 if half else 1) / (BANDWIDTH_SHARE * card.bandwidth)
    size = 0.5 * step.splats / DRAW_SPLATS + 0.5 * step.pixels / DRAW_PIXELS
    frame = DRAW_FORWARD_S + (DRAW_BACKWARD_S if step.trained else 0)
    drawing = step.frames * size * frame + (DRAW_CALL_S if step.frames else 0)
    optimizer = (
        7 * 4 * step.trained / (BANDWIDTH_SHARE * card.bandwidth)
    )  # reads and writes of AdamW, and the average
    host = counted.kernels * LAUNCH_S + step.drawn * DRAW_S
    kept = counted.kept * (KEPT_BF16 if half else 1) + 5 * 4 * step.trained
    return Prediction(max(work, moved) + drawing + optimizer, host, CONTEXT_BYTES + SPARE * kept)


@contextmanager
def _without_pictures() -> Iterator[None]:
    """Pictures of the right size that depend on all splats, in place of drawn ones."""
    drawing: tuple[Any, ...] = (splats, refine_together)
    real = splats.rasterize
    for module in drawing:
        module.rasterize = _flat
    try:
        yield
    finally:
        for module in drawing:
            module.rasterize = real


def _flat(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    background: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, Tensor]:
    level = (
        means.mean((-1, -2)) + quats.mean((-1, -2)) + colors.mean((-1, -2)) + opacities.mean() + scales.mean()
    )
    alpha = level[..., None, None, None].expand(*level.shape, height, width, 1)
    image = alpha.expand(*level.shape, height, width, 3)
    return image if background is None else image + (1 - alpha) * background, alpha
