"""Adam of the fit: undoable by a step, its second moment with a floor. torch's own imports its compiler, which takes seconds.

Source: Kingma and Ba 2015.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class FlooredAdam:
    """Adam whose second moment is at least `floor` of its mean over the tensor; least: added to its root. Undoable by one step."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        rates: Sequence[float],
        betas: tuple[float, float] = (0.8, 0.98),
        floor: float = 0.1,
        least: float = 1e-12,
    ) -> None:
        self.least = least
        self.parameters, self.rates, self.betas, self.floor = list(parameters), list(rates), betas, floor
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.before = [p.detach().clone() for p in self.parameters]
        self.count = 0

    def clear(self) -> None:
        for p in self.parameters:
            p.grad = None

    def finite(self) -> Tensor:
        """Of all gradients: the one number that a step reads back from the device."""
        return torch.stack(
            [torch.isfinite(p.grad).all() for p in self.parameters if p.grad is not None]
        ).all()

    @torch.no_grad()
    def undo(self) -> None:
        """Back to before the last step, with half the rates."""
        for p, old in zip(self.parameters, self.before, strict=True):
            p.copy_(old)
        self.rates = [0.5 * r for r in self.rates]

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        self.count += 1
        a, b = self.betas
        for i, p in enumerate(self.parameters):
            self.before[i].copy_(p)
            if p.grad is None:
                continue
            self.first[i].mul_(a).add_(p.grad, alpha=1 - a)
            self.second[i].mul_(b).addcmul_(p.grad, p.grad, value=1 - b)
            variance = self.second[i] + self.floor * self.second[i].mean()
            size = (variance / (1 - b**self.count)).sqrt_().add_(self.least)
            p.addcdiv_(self.first[i] / (1 - a**self.count), size, value=-self.rates[i] * factor)
