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
from avatar_core.personalise.view import View, Wanted
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
    leaves = [Leave.of(p.particles, p.view, config, sharp, compute) for p in portraits]
    looks = [Looks.of(p.view, p.face_view, config, sharp, p.focus, compute) for p in portraits]
    counts = [len(leave.gate) for leave in leaves]
    leave = [torch.stack(values) for values in zip(*(_widened(x, max(counts)) for x in leaves), strict=True)]
    change = [torch.zeros_like(p, requires_grad=True) for p in _leave(leave).like()]
    optimizer, schedule, total = optimizer_of(change, config, sharp)
    filled = torch.tensor([max(counts) / n for n in counts], device=compute.device)
    wide = _Canvas.of([look.cut for look in looks], compute.device)
    near = [k for k, look in enumerate(looks) if look.close is not None]
    faces = _Canvas.of([_close(looks[k]).view for k in near], compute.device) if near else None
    nearest = torch.tensor(near, dtype=torch.int64, device=compute.device)
    random = torch.Generator().manual_seed(SEED)

    def current() -> Parameters:
        found = torch.vmap(lambda own, changed: tuple(vars(_leave(own).current(changed)).values()))
        return Parameters(*found(leave, change))

    for step in range(total):
        drawn = current().splats()
        (backdrop,) = compute.put(torch.rand(3, generator=random, device="cpu"))
        images, alphas = wide.draw(drawn, backdrop, threads)
        slope, edge = torch.zeros_like(images), torch.zeros_like(alphas)
        for k, look in enumerate(looks):
            rows, columns = look.cut.mask.shape
            at = (k, ..., slice(rows), slice(columns))
            slope[at], edge[at] = look.slopes(images[at].detach(), alphas[at].detach(), backdrop)
        drawings = {images: slope, alphas: edge}
        if faces is not None and step % CLOSER_EVERY == 0:
            seen = Splats(*(value[nearest] for value in vars(drawn).values()))
            closer, _ = faces.draw(seen, backdrop, threads)
            slope = torch.zeros_like(closer)
            for k, number in enumerate(near):
                close = _close(looks[number])
                rows, columns = close.view.mask.shape
                at = (k, ..., slice(rows), slice(columns))
                slope[at] = close.slope(closer[at].detach(), backdrop)[0]
            drawings[closer] = slope
        pull = torch.vmap(lambda own, changed: _leave(own).pull(changed, config, sharp))(leave, change)
        optimizer.zero_grad()
        torch.autograd.backward([(pull * filled).sum(), *drawings], [None, *drawings.values()])
        optimizer.step()
        finite = torch.isfinite(torch.stack([c.flatten(1).sum(1) for c in change])).all(0).tolist()
        if not all(finite):
            raise UserError(f"{names[finite.index(False)]}: {DIVERGED}")
        schedule.step()
        progress(step + 1, total, "refine")
    with torch.no_grad():
        found = current()
    return [
        refined(p.particles, Parameters(*(value[k, :n] for value in vars(found).values())))
        for k, (p, n) in enumerate(zip(portraits, counts, strict=True))
    ]


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
        s = splats
        image, alpha = rasterize(
            s.means, s.quats, s.scales, s.opacities, s.colors, self.viewmats.float(), self.Ks.float(),
            self.width, self.height, background=backdrop, eps2d=PORTRAIT_BLUR, threads=threads,
        )  # fmt: skip
        return image.movedim(-1, -3), alpha[..., 0]


def _close(look: Looks) -> Wanted:
    assert look.close is not None
    return look.close


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
