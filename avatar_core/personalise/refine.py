"""Photometric refinement of a portrait's particles through the renderer: whole picture plus a closer look at the face.

Two phases: half resolution, then (after `detail.add_detail`) full. Loss: L1 + (1 - SSIM) on both views, squared error in
the second phase, L1 of alpha against the mask, and pulls toward where the particles started. Particles
move a few millimetres at most, so that each stays on the part of the template that it belongs to.

Legend: N particles (base and shells), H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor

from avatar_core.device import CPU, Compute
from avatar_core.errors import UserError
from avatar_core.geometry.rotations import quat_mul
from avatar_core.particles.layout import REGIONS
from avatar_core.particles.splats import Splats, float_tensor
from avatar_core.personalise.appearance import PortraitParticles
from avatar_core.personalise.config import RefineConfig
from avatar_core.personalise.view import View, Wanted, render
from avatar_core.progress import Progress, silent

# Learning rates of means (in reaches), turns (rad), log scales, logits, colours: coarse steps, then sharp ones. Small
# particles at a pattern's edges have to turn and stretch a lot in few steps.
COARSE_RATES = (0.1, 6e-3, 1.5e-2, 4e-2, 2e-2)
SHARP_RATES = (0.1, 4.8e-2, 6e-2, 1e-1, 4e-2)
# Flat particles stay flat on their surface. One view does not see it when they stand up or drift along the line of sight,
# but the next one does: stripes smear and outlines fray.
FLAT = 0.8  # thin and wide axes differ at least so much, in log
TILT, RISE = 0.15, 0.3  # of the largest turn and shift: what flat particles may do out of their plane
CLOSER_EVERY = (
    2  # steps for one closer look at the face: it costs a third of a sharp step, half of a coarse one
)
GAMUT_PX, GAMUT_MARGIN = 3, 0.04
SIZES = float(np.log(3e-4)), float(np.log(0.018))  # log scales
HAND_SIZE = float(
    np.log(0.006)
)  # of a hand's, thinner than a finger: a longer one takes what is behind the hand with it
SEED = 20260901  # of the backdrops
DIVERGED = "portrait: refinement diverged; try another picture of this person"
FULL_SHARE_PX = 0.8  # a particle that fills this much of the picture is free to change


@dataclass(frozen=True)
class Parameters:
    """What the optimiser sees of N particles."""

    means: Tensor  # (N,3)
    quats: Tensor  # (N,4)
    log_scales: Tensor  # (N,3)
    logit_opacities: Tensor  # (N,)
    colors: Tensor  # (N,3)

    @staticmethod
    def of(particles: PortraitParticles) -> Parameters:
        return Parameters(*(float_tensor(getattr(particles, f.name)) for f in fields(Parameters)))

    def splats(self) -> Splats:
        return Splats.activated(self.means, self.quats, self.log_scales, self.logit_opacities, self.colors)


def refine(
    particles: PortraitParticles,
    view: View,
    face_view: View | None,
    config: RefineConfig,
    *,
    sharp: bool = False,
    focus: tuple[int, int, int] | None = None,
    threads: int = 1,
    progress: Progress = silent,
    compute: Compute = CPU,
) -> PortraitParticles:
    """Adjust places, turns, sizes, opacities and colours so that the views come out as their targets.

    sharp: the second phase, at full resolution, else the first one at half. focus: x0, y0, side in px of the face, which
    counts more in the second phase. threads: of the CPU's renderer; the result does not depend on them. Steps shrink with a
    particle's share of the picture: one behind others would otherwise take any colour to correct a fraction of a pixel.
    """
    leave = Leave.of(particles, view, config, sharp, compute)
    looks = Looks.of(view, face_view, config, sharp, focus, compute)
    change = [torch.zeros_like(p, requires_grad=True) for p in leave.like()]
    optimizer, schedule, total = optimizer_of(change, config, sharp)
    random = torch.Generator().manual_seed(SEED)
    for step in range(total):
        drawn = leave.current(change).splats()
        # Against ever other backdrops an outline cannot pass by taking the backdrop's colour.
        (backdrop,) = compute.put(torch.rand(3, generator=random, device="cpu"))
        image, alpha = render(looks.cut, drawn, backdrop, threads)
        image = image.movedim(-1, 0)
        slopes = looks.slopes(image.detach(), alpha.detach(), backdrop)
        drawings = dict(zip((image, alpha), slopes, strict=True))
        if looks.close is not None and step % CLOSER_EVERY == 0:
            face = render(looks.close.view, drawn, backdrop, threads)[0].movedim(-1, 0)
            drawings[face] = looks.close.slope(face.detach(), backdrop)[0]
        pull = leave.pull(change, config, sharp)
        optimizer.zero_grad()
        torch.autograd.backward([pull, *drawings], [None, *drawings.values()])
        optimizer.step()
        if not torch.isfinite(torch.stack([c.sum() for c in change])).all():
            raise UserError(DIVERGED)
        schedule.step()
        progress(step + 1, total, "refine")
    with torch.no_grad():
        return refined(particles, leave.current(change))


@dataclass(frozen=True)
class Leave:
    """What N particles may change: start, and how freely (gate), how strongly held (hold), how far (move, turn_leave), how thick
    and wide, and between which colours."""

    start: Parameters
    gate: Tensor  # (N,1)
    hold: Tensor  # (N,1)
    bound: Tensor  # (N,1)
    darkest: Tensor  # (N,3)
    brightest: Tensor  # (N,3)
    move: Tensor  # (N,3,3)
    turn_leave: Tensor  # (N,3)
    thickest: Tensor  # (N,3)
    widest: Tensor  # (N,1)

    @staticmethod
    def of(
        particles: PortraitParticles, view: View, config: RefineConfig, sharp: bool, compute: Compute
    ) -> Leave:
        device, start = compute.device, Parameters.of(particles)
        share = contribution(view, start.splats())
        share[_fixed(particles)] = 0
        gate = (share / FULL_SHARE_PX).clamp(0, 1)[:, None]
        if sharp:
            gate[: particles.n_base] *= config.calm
        hold = 1 / (share + 0.1)[:, None]
        reach = torch.full((len(gate), 1), config.reach_m, device="cpu")
        reach[particles.n_base :] = config.shell_reach_m
        # The second phase starts where the first one ended: half the leave of it bounds their sum.
        leave = 0.5 if sharp else 1.0
        reach[: particles.n_base] *= leave
        # What is seen edge on may hardly leave the colour of its surroundings: it would pick up the outline's errors.
        edge = torch.from_numpy(np.clip((particles.facing - 0.1) / 0.4, 0, 1).astype(np.float32))[:, None]
        bound = leave * 0.04 + 0.8 * edge
        darkest, brightest = gamut(particles, view)
        gate, hold, reach, bound, darkest, brightest = compute.put(
            gate, hold, reach, bound, darkest, brightest
        )
        start = Parameters(*compute.put(*vars(start).values()))
        thin = start.log_scales[:, 2] < start.log_scales[:, :2].amin(1) - FLAT
        flat = thin.float()[:, None] * torch.tensor([0.0, 0.0, 1.0], device=device)
        axes = torch.from_numpy(
            Rotation.from_quat(particles.quats[:, [1, 2, 3, 0]]).as_matrix().astype(np.float32)
        ).to(device)
        move = axes * (reach * (1 - (1 - RISE) * flat))[:, None]
        turn_leave = 1 - (1 - TILT) * flat[:, [2, 2, 0]]
        thickest = torch.where(flat > 0, start.log_scales, torch.inf)
        hand = float_tensor(np.isin(particles.region, (REGIONS["hand_left"], REGIONS["hand_right"])))
        hand_widest = start.log_scales.amax(-1, keepdim=True).clamp(HAND_SIZE, SIZES[1])
        widest = torch.where(hand[:, None].to(device) > 0, hand_widest, SIZES[1])
        return Leave(start, gate, hold, bound, darkest, brightest, move, turn_leave, thickest, widest)

    def like(self) -> tuple[Tensor, ...]:
        """Tensors of the shapes of what changes: means, turns, log scales, logits, colours."""
        s = self.start
        return s.means, s.means, s.log_scales, s.logit_opacities, s.colors

    def current(self, change: Sequence[Tensor]) -> Parameters:
        start = self.start
        means, turns, log_scales, logits, colors = (
            self.gate.view(-1, *[1] * (c.dim() - 1)) * c for c in change
        )
        # Thin stays thinner than wide, within bounds: needles and shards show when the head turns.
        size = torch.minimum(start.log_scales + log_scales, self.thickest).clamp_min(SIZES[0])
        size = torch.minimum(size, self.widest)
        size = torch.maximum(size, size.detach().amax(-1, keepdim=True) - 2.3)
        color = (start.colors + self.bound * torch.tanh(colors / self.bound)).clamp(
            self.darkest, self.brightest
        )
        return Parameters(
            start.means + (self.move @ torch.tanh(means)[..., None])[..., 0],
            F.normalize(
                quat_mul(start.quats, F.pad(0.5 * self.turn_leave * turns, (1, 0), value=1.0)), dim=-1
            ),
            size,
            start.logit_opacities + logits,
            color,
        )

    def pull(self, change: Sequence[Tensor], config: RefineConfig, sharp: bool) -> Tensor:
        """What leaving the start costs."""
        colors = self.hold * (change[4].square() + 0.1 * change[2].square())
        return (config.sharp_pull if sharp else config.pull) * colors.mean() + 2e-4 * change[
            0
        ].square().mean()


@dataclass(frozen=True)
class Looks:
    """What is compared with: the window round the person (cut, wide), a closer look at the face (or None), and the face's place in
    the window with what its pixels weigh beside (or None). mask, squared: weights of the outline, of squared differences."""

    cut: View
    wide: Wanted
    close: Wanted | None
    focused: tuple[tuple[slice, slice, slice], float] | None
    mask: float
    squared: float

    @staticmethod
    def of(
        view: View,
        face_view: View | None,
        config: RefineConfig,
        sharp: bool,
        focus: tuple[int, int, int] | None,
        compute: Compute,
    ) -> Looks:
        device = compute.device
        whole = view if sharp else view.half()
        pixels = whole.camera.width * whole.camera.height
        cut, left, top = whole.around_person()
        cut = cut.to(device)
        wide = Wanted.of(cut, 1 / pixels, 0.0 if sharp else config.ssim)
        close = None
        if face_view is not None:
            close = Wanted.of(face_view.to(device), config.face / face_view.mask.numel(), config.ssim)
        focused = None
        if focus is not None and sharp:
            x0, y0, side = focus
            window = (
                slice(max(0, y0 - top), max(0, y0 + side - top)),
                slice(max(0, x0 - left), max(0, x0 + side - left)),
            )
            focused = (slice(None), *window), 2 * config.focus * config.squared / (3 * side * side)
        squared = 2 * config.squared / (3 * pixels) if sharp else 0.0
        return Looks(cut, wide, close, focused, config.mask / pixels, squared)

    def slopes(self, image: Tensor, opaque: Tensor, backdrop: Tensor) -> tuple[Tensor, Tensor]:
        """Of the loss by a picture (3,H,W) before the backdrop, and by its alpha (H,W)."""
        slope, difference = self.wide.slope(image, backdrop)
        if self.squared:
            slope.add_(difference, alpha=self.squared)
            if self.focused is not None:
                slope[self.focused[0]].add_(difference[self.focused[0]], alpha=self.focused[1])
        return slope, (opaque - self.cut.mask).sign_().mul_(self.mask)


def optimizer_of(
    change: Sequence[Tensor], config: RefineConfig, sharp: bool
) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.LRScheduler, int]:
    """Of what changes, its schedule and its steps."""
    rates = SHARP_RATES if sharp else COARSE_RATES
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": lr} for p, lr in zip(change, rates, strict=True)],
        betas=(0.9, 0.99),
        fused=True,
    )
    total = config.sharp_steps if sharp else config.steps
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, eta_min=0), total


def refined(particles: PortraitParticles, found: Parameters) -> PortraitParticles:
    """The particles as they were found, on the CPU."""
    return replace(
        particles,
        means=found.means.cpu().numpy(),
        quats=found.quats.cpu().numpy(),
        log_scales=found.log_scales.cpu().numpy(),
        logit_opacities=found.logit_opacities.clamp(-6, 6).cpu().numpy(),
        colors=found.colors.cpu().numpy(),
    )


def gamut(particles: PortraitParticles, view: View) -> tuple[Tensor, Tensor]:
    """Darkest and brightest colour (N,3) that a particle may take: what the portrait shows within GAMUT_PX of it.

    Blending lets a bright particle compensate for a dark one in front of it, which shows as a speck from any other view.
    Particles that the portrait does not show stay near the colour they started with.
    """
    mask = (view.mask.numpy() > 0.5)[..., None]
    target = view.colors.numpy()
    window = np.ones((2 * GAMUT_PX + 1,) * 2, np.uint8)
    low = cv2.erode(np.where(mask, target, 1).astype(np.float32), window)
    high = cv2.dilate(np.where(mask, target, 0).astype(np.float32), window)
    xy, _ = view.camera.project(np.asarray(particles.means))
    column, row = (np.clip(xy[:, k].astype(int), 0, target.shape[1 - k] - 1) for k in (0, 1))
    low, high = low[row, column], high[row, column]
    start = np.clip(np.asarray(particles.colors, np.float32), 0, 1)
    known = particles.seen[:, None] & (low <= high)
    low, high = np.where(known, low, start), np.where(known, high, start)
    tensor = lambda a: torch.from_numpy(np.clip(a, 0, 1).astype(np.float32))  # noqa: E731
    return tensor(low - GAMUT_MARGIN), tensor(high + GAMUT_MARGIN)


def contribution(view: View, splats: Splats, where: Tensor | None = None) -> Tensor:
    """(N,) pixels of the view, or of `where` (H,W) in it, that each splat's colour fills: the sum of its blending weights."""
    colors = torch.zeros_like(splats.colors).requires_grad_()
    with torch.enable_grad():
        image, _ = render(view, replace(splats.detach(), colors=colors))
        (image[..., 0] if where is None else image[..., 0] * where).sum().backward()
    assert colors.grad is not None
    return colors.grad[:, 0].clone()


def _fixed(particles: PortraitParticles) -> Tensor:
    """(N,) bool: the mouth's inside keeps its colours, closed lips must hide it."""
    fixed = particles.region == REGIONS["mouth_interior"]
    fixed[particles.n_base :] = False
    return torch.from_numpy(fixed)
