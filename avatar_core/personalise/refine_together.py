"""Refinement of several portraits in common steps, for a device that one leaves idle.

What changes of all of them is one tensor with a leading dim, filled up to one number of particles, and computed by the functions of
`refine` under `torch.vmap`; all are drawn in one call, on a canvas that holds the largest; pictures, which differ in size, are
compared one by one. What is filled up shows nothing and changes nothing, so the result is that of one portrait after the other
but for the order of sums.

Legend: B portraits, N particles of the largest, H W pixels of the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avatar_core.device import CPU, Compute
from avatar_core.errors import UserError
from avatar_core.particles.splats import PORTRAIT_BLUR, Splats
from avatar_core.personalise.appearance import PortraitParticles
from avatar_core.personalise.config import RefineConfig
from avatar_core.personalise.refine import (
    CLOSER_EVERY,
    DIVERGED,
    SEED,
    Leave,
    Looks,
    Parameters,
    optimizer_of,
    refined,
)
from avatar_core.personalise.view import View
from avatar_core.progress import Progress, silent
from avatar_core.render import rasterize

HIDDEN = -30.0  # logit of an opacity that is not drawn


@dataclass(frozen=True)
class Portrayed:
    """The arguments of `refine.refine` that each portrait has its own of."""

    particles: PortraitParticles
    view: View
    face_view: View | None
    focus: tuple[int, int, int] | None = None


def refine_together(
    portraits: Sequence[Portrayed],
    config: RefineConfig,
    *,
    names: Sequence[str],
    sharp: bool = False,
    threads: int = 1,
    progress: Progress = silent,
    compute: Compute = CPU,
) -> list[PortraitParticles]:
    """`refine.refine` of each. Raises UserError that starts with the name of one that diverged."""
    refinement = PortraitsRefinement(portraits, config, sharp, threads, compute)
    change = refinement.change
    optimizer, schedule, total = optimizer_of(change, config, sharp)
    random = torch.Generator().manual_seed(SEED)
    for step in range(total):
        (backdrop,) = compute.put(torch.rand(3, generator=random, device="cpu"))
        optimizer.zero_grad()
        refinement.backward(backdrop, closer=step % CLOSER_EVERY == 0)
        optimizer.step()
        finite = torch.isfinite(torch.stack([c.flatten(1).sum(1) for c in change])).all(0).tolist()
        if not all(finite):
            raise UserError(f"{names[finite.index(False)]}: {DIVERGED}")
        schedule.step()
        progress(step + 1, total, "refine")
    return refinement.portraits()


class PortraitsRefinement:
    """What the steps of a refinement share: `change` of all portraits, tensors (B,N,...) as `Leave.like` has them, and how far it
    may go; what is compared with."""

    def __init__(
        self,
        portraits: Sequence[Portrayed],
        config: RefineConfig,
        sharp: bool,
        threads: int,
        compute: Compute,
    ) -> None:
        self.begun = [p.particles for p in portraits]
        self.config, self.sharp, self.threads = config, sharp, threads
        leaves = [Leave.of(p.particles, p.view, config, sharp, compute) for p in portraits]
        self.counts = [len(leave.gate) for leave in leaves]
        widened = (_widened(leave, max(self.counts)) for leave in leaves)
        self.leave = [torch.stack(values) for values in zip(*widened, strict=True)]
        self.change = [torch.zeros_like(p, requires_grad=True) for p in _leave(self.leave).like()]
        self.filled = torch.tensor([max(self.counts) / n for n in self.counts], device=compute.device)
        self.looks = [Looks.of(p.view, p.face_view, config, sharp, p.focus, compute) for p in portraits]
        self.wide = _Canvas.of([look.cut for look in self.looks], compute.device)
        self.close = {k: look.close for k, look in enumerate(self.looks) if look.close is not None}
        self.near = torch.tensor(list(self.close), dtype=torch.int64, device=compute.device)
        self.faces = (
            _Canvas.of([wanted.view for wanted in self.close.values()], compute.device)
            if self.close
            else None
        )

    def backward(self, backdrop: Tensor, closer: bool) -> None:
        """Adds the gradients of all losses to `change`; closer: of a closer look at the faces too."""
        drawn = self._current().splats()
        images, alphas = self.wide.draw(drawn, backdrop, self.threads)
        slope, edge = torch.zeros_like(images), torch.zeros_like(alphas)
        for k, look in enumerate(self.looks):
            at = _window(k, look.cut)
            slope[at], edge[at] = look.slopes(images[at].detach(), alphas[at].detach(), backdrop)
        drawings = {images: slope, alphas: edge}
        if self.faces is not None and closer:
            seen = Splats(*(value[self.near] for value in vars(drawn).values()))
            pictures, _ = self.faces.draw(seen, backdrop, self.threads)
            slope = torch.zeros_like(pictures)
            for k, wanted in enumerate(self.close.values()):
                at = _window(k, wanted.view)
                slope[at] = wanted.slope(pictures[at].detach(), backdrop)[0]
            drawings[pictures] = slope
        pulled = torch.vmap(lambda own, changed: _leave(own).pull(changed, self.config, self.sharp))
        pull = pulled(self.leave, self.change)
        torch.autograd.backward([(pull * self.filled).sum(), *drawings], [None, *drawings.values()])

    def portraits(self) -> list[PortraitParticles]:
        """As they are now."""
        with torch.no_grad():
            found = vars(self._current()).values()
        return [
            refined(particles, Parameters(*(value[k, :n] for value in found)))
            for k, (particles, n) in enumerate(zip(self.begun, self.counts, strict=True))
        ]

    def _current(self) -> Parameters:
        found = torch.vmap(lambda own, changed: tuple(vars(_leave(own).current(changed)).values()))
        return Parameters(*found(self.leave, self.change))


@dataclass(frozen=True)
class _Canvas:
    """Views of all portraits, each at the upper left of one size."""

    viewmats: Tensor  # (B,4,4)
    Ks: Tensor  # (B,3,3)
    width: int
    height: int

    @staticmethod
    def of(views: Sequence[View], device: str) -> _Canvas:
        viewmats, Ks = zip(*(view.camera.tensors(device) for view in views), strict=True)
        width = max(view.camera.width for view in views)
        height = max(view.camera.height for view in views)
        return _Canvas(torch.stack(viewmats), torch.stack(Ks), width, height)

    def draw(self, splats: Splats, backdrop: Tensor, threads: int) -> tuple[Tensor, Tensor]:
        """Pictures (B,3,H,W) and alphas (B,H,W) before a plain colour."""
        image, alpha = rasterize(
            splats.means, splats.quats, splats.scales, splats.opacities, splats.colors,
            self.viewmats.float(), self.Ks.float(), self.width, self.height,
            background=backdrop, eps2d=PORTRAIT_BLUR, threads=threads,
        )  # fmt: skip
        return image.movedim(-1, -3), alpha[..., 0]


def _window(k: int, view: View) -> tuple[Any, ...]:
    """Where of all pictures view k lies."""
    rows, columns = view.mask.shape
    return k, ..., slice(rows), slice(columns)


def _widened(leave: Leave, count: int) -> list[Tensor]:
    """What `_leave` takes, with copies of the first particle at the end that are not seen and stay as they are."""
    have = len(leave.gate)
    parts = dict(vars(leave))
    start = vars(parts.pop("start"))
    rows = torch.arange(count, device=leave.gate.device)
    real, rows = (rows < have).float(), rows.where(rows < have, 0)
    values = {name: value[rows] for name, value in {**start, **parts}.items()}
    for name in ("gate", "hold"):
        values[name] = values[name] * real[:, None]
    values["logit_opacities"] = values["logit_opacities"].where(real > 0, HIDDEN)
    return list(values.values())


def _leave(values: Sequence[Tensor]) -> Leave:
    return Leave(Parameters(*values[:5]), *values[5:])
