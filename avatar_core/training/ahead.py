"""Batches drawn by a thread ahead of the steps that use them, in the order and with the numbers of batches drawn in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Ahead(Generic[T]):
    """`draw(rng)` at each call; up to `count` further ones are under way meanwhile. With 0 nothing is.

    The thread draws from a generator of its own, and `rng` is left as the batch just given leaves it, so that a checkpoint holds
    what it would without. Nothing else may draw from `rng`. There is one thread because all draws come from one stream.
    """

    def __init__(self, draw: Callable[[torch.Generator], T], rng: torch.Generator, count: int) -> None:
        self.draw, self.rng, self.count = draw, rng, count
        self.own = torch.Generator()
        self.waiting: deque[Future[tuple[T, Tensor]]] = deque()

    def __enter__(self) -> Ahead[T]:
        self.thread = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown(cancel_futures=True)

    def __call__(self) -> T:
        if self.count == 0:
            return self.draw(self.rng)
        if not self.waiting:
            self.own.set_state(self.rng.get_state())
        while len(self.waiting) <= self.count:
            self.waiting.append(self.thread.submit(self._draw))
        batch, state = self.waiting.popleft().result()
        self.rng.set_state(state)
        return batch

    def _draw(self) -> tuple[T, Tensor]:
        return self.draw(self.own), self.own.get_state()
