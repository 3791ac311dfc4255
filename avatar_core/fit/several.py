"""Several clips in one step, for a device that one leaves idle: what is small is computed for all at once, pictures clip by clip.

A step of one clip is a few thousand small kernels, whose starting takes longer than their work, and a few large ones that draw and
compare pictures. Here `torch.vmap` computes the same functions as for one clip on tensors with a leading dim for the clips, filled
up to one number of frames and particles; what is filled up weighs nothing. So the result is that of one clip after the other but
for the order of sums.

Shapes: C clips, T frames of the longest, and those of `rig`, `track` and `clip_refine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from avatar_core.fit.rig import FitRig
from avatar_core.fit.track import Curves

OWN = (
    "rest",
    "skin",
    "actions",
    "turns",
    "quats",
    "node_rest",
    "node_tight",
)  # of each rig; the rest is alike


class Several:
    """Rigs of one framing and node graph, as one; lengths: frames of their clips, 3 or more.

    real (C,T): 1 for frames, 0 for what is filled up.
    """

    def __init__(self, rigs: Sequence[FitRig], lengths: Sequence[int]) -> None:
        assert len({rig.skeleton.names for rig in rigs}) == 1 and min(lengths) > 2
        device, self.lengths, self.frames = rigs[0].rest.device, list(lengths), max(lengths)
        wide = [_widened(rig, max(r.n_base for r in rigs)) for rig in rigs]
        self._like = replace(wide[0], blend=wide[0].blend.beside([rig.blend for rig in wide[1:]]))
        self._own = {name: torch.stack([getattr(rig, name) for rig in wide]) for name in OWN}
        self._joints = torch.stack([rig.skeleton.joints for rig in rigs])
        steps = torch.arange(self.frames, device=device)
        self.real = (steps < torch.tensor(self.lengths, device=device)[:, None]).float()

    def each(self, function: Callable[..., Any], *values: Any) -> Any:
        """`function(rig, *values)` of every clip: values (C,...), or dicts and tuples of them, and so is what it gives."""

        def one(own: dict[str, Tensor], joints: Tensor, *values: Any) -> Any:
            skeleton = replace(self._like.skeleton, joints=joints)
            return function(replace(self._like, skeleton=skeleton, **own), *values)

        return torch.vmap(one)(self._own, self._joints, *values)

    def stack(self, values: Sequence[Tensor]) -> Tensor:
        """(C,T,...) of values (T of the clip,...)."""
        return torch.stack([filled(value, self.frames) for value in values])


class Parameters:
    """Leaves (C,...) of all clips, and every clip's own part of each, which shares their memory and their gradients."""

    def __init__(self, own: Sequence[Sequence[Tensor]]) -> None:
        """own: every clip's tensors, in one order; the first dim is filled up where clips differ."""
        self.all = tuple(
            torch.stack([filled(value.detach(), max(map(len, values))) for value in values]).requires_grad_()
            for values in zip(*own, strict=True)
        )
        self.sizes = [[len(value) for value in values] for values in own]
        self.own = [
            [leaf.detach()[clip, :size] for leaf, size in zip(self.all, sizes, strict=True)]
            for clip, sizes in enumerate(self.sizes)
        ]

    def clear(self) -> None:
        for leaf in self.all:
            leaf.grad = None

    def share_gradients(self) -> None:
        """After a backward pass: to every clip its own."""
        for clip, (parts, sizes) in enumerate(zip(self.own, self.sizes, strict=True)):
            for part, leaf, size in zip(parts, self.all, sizes, strict=True):
                part.grad = None if leaf.grad is None else leaf.grad[clip, :size]


def stacked_curves(own: Sequence[Curves], frames: int) -> tuple[Tensor, Tensor]:
    """Bases (C,T,·) of clips' curves, filled up."""
    bases = []
    for name in ("slow_basis", "quick_basis"):
        parts = [getattr(curves, name) for curves in own]
        knots = max(part.shape[1] for part in parts)
        bases.append(torch.stack([filled(pad(part, (0, knots - part.shape[1])), frames) for part in parts]))
    return bases[0], bases[1]


def filled(value: Tensor, length: int) -> Tensor:
    """(n,...) -> (length,...), zeros at its end."""
    return torch.cat([value, value.new_zeros(length - len(value), *value.shape[1:])])


def _widened(rig: FitRig, base: int) -> FitRig:
    """With so many base particles: copies of the first at the end, which nobody draws. Shells stay as they are."""
    have = rig.n_base
    chosen = np.concatenate([np.arange(have), np.zeros(base - have, np.int64)])
    rows = np.concatenate([chosen, np.arange(have, rig.rest.shape[1])])
    return replace(
        rig,
        rest=rig.rest[:, rows],
        skin=rig.skin[:, rows],
        actions=rig.actions[:, :, rows],
        turns=rig.turns[:, :, chosen],
        quats=rig.quats[chosen],
        blend=rig.blend.rows(rows),
    )
