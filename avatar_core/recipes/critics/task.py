"""A recipe of one net: what it is, what it learns from, what it is scored by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Task:
    """One net's recipe. `batch(rng, size)` -> tensors, `loss(net, batch)` -> (loss, logged numbers)."""

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[np.random.Generator, int], dict[str, Tensor]]
    loss: Callable[[nn.Module, dict[str, Tensor]], tuple[Tensor, dict[str, float]]]
    evaluate: Callable[[nn.Module], dict[str, float]]
    steps: int
    batch_size: int
    learning_rate: float
    config: dict[str, Any]
    keep: str = ""  # only tensors with this prefix go into the asset, without it
