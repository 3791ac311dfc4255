"""The processes of one training: which of them this is, its part of a batch, and what they exchange at every step.

Every process draws the whole batch from the same seeds, works on its own rows of it, and takes the mean of all gradients; so the
result is that of one process but for rounding, whatever their number. Alone, each function gives back what it was given.
torch.distributed knows how many there are; the stage runner starts them (`stages.processes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_shared = False  # is the batch in work a part of one?


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Which of them this is; 0 writes files and tells progress."""
    return dist.get_rank() if count() > 1 else 0


@contextmanager
def share(*batch: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """This process's rows of a batch that all have drawn alike. Within, `Dropout` draws for the whole batch too."""
    global _shared
    _shared = True
    try:
        yield tuple(_own(value) for value in batch)
    finally:
        _shared = False


def _own(value: Tensor) -> Tensor:
    rows, rest = divmod(len(value), count())
    assert not rest, f"{len(value)} rows for {count()} processes"
    return value[number() * rows : (number() + 1) * rows] if count() > 1 else value


class Dropout(nn.Dropout):
    """Drops the same of each row as it would in one process."""

    def forward(self, input: Tensor) -> Tensor:
        if not (_shared and count() > 1 and self.training and self.p):
            return super().forward(input)
        keep = input.new_empty(count() * len(input), *input.shape[1:]).bernoulli_(1 - self.p)
        return input * _own(keep.div_(1 - self.p))


def gather(rows: Tensor) -> Tensor:
    """All processes' rows, for a loss that compares each row with each, which then is the same everywhere.

    Gradients are such that their mean over the processes is the whole batch's.
    """
    return _Gather.apply(rows) if count() > 1 else rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(count())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return count() * _own(gradients[0])


def start_alike(model: nn.Module) -> None:
    """The first process's weights for all."""
    for value in model.state_dict().values() if count() > 1 else ():
        dist.broadcast(value, 0)


def agree(
    terms: Mapping[str, Tensor], trained: Sequence[Tensor], stop: bool
) -> tuple[dict[str, Tensor], bool]:
    """The mean of each term over the processes that have it, and whether any is to stop; gradients become their mean, in place."""
    if count() == 1:
        return dict(terms), stop
    told: list[Any] = [None] * count()
    dist.all_gather_object(told, (tuple(terms), stop, [p.grad is not None for p in trained]))
    names = dict.fromkeys(name for known, *_ in told for name in known)
    used = [p for p, *has in zip(trained, *(has for *_, has in told), strict=True) if any(has)]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
    values = [terms[n].detach().float() if n in terms else gradients[0].new_zeros(()) for n in names]
    flat = torch.cat([*(g.flatten() for g in gradients), torch.stack(values)])
    dist.all_reduce(flat)
    *parts, sums = flat.split([*(g.numel() for g in gradients), len(names)])
    for parameter, part in zip(used, parts, strict=True):
        parameter.grad = part.view_as(parameter) / count()
    means = {n: sums[k] / sum(n in known for known, *_ in told) for k, n in enumerate(names)}
    return means, any(asked for _, asked, _ in told)
