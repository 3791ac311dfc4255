"""The training loop of every network here: schedule, clipping, averaged weights, NaN guard, checkpoints that resume exactly.

A caller brings its model, its optimizer and a function that draws a batch and gives the loss. All randomness must come from
torch's global generators or from the one given: they are part of the checkpoint, so that stopping and going on gives
the same bytes as not stopping (on a CPU).

Several processes may share each batch (`avatar_core.ranks`); SIGTERM ends a training after the step in work, with a checkpoint.

On a CUDA device nothing is read back within a step, which would make the CPU wait and the device idle: the optimizer itself leaves
out a step that is not finite, and losses are read every `READ_EVERY` steps.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core import ranks
from avatar_core.errors import Interrupted, UserError
from avatar_core.progress import Progress
from avatar_core.training.state import TrainingState, load_latest, save_state

History = list[dict[str, float]]  # the terms of every step, "loss" among them
PATIENCE = 10  # steps in a row whose loss or gradients may be not finite
READ_EVERY = 10  # steps on a CUDA device


@dataclass(frozen=True)
class Loop:
    """stage: its name in errors. The rate rises over `warmup` steps, then falls along a cosine to `floor` of itself.

    ema: decay of the averaged weights (less in the first steps). `progress` is called every `report_every` steps.
    """

    stage: str
    steps: int
    learning_rate: float
    ema: float
    checkpoint_every: int
    warmup: int = 20
    floor: float = 0.02
    clip_norm: float = 1.0
    report_every: int = 10


def run_loop(
    loop: Loop,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
    losses: Callable[[], Mapping[str, Tensor]],
    *,
    fingerprint: str,
    checkpoint_dir: Path | None,
    progress: Progress,
) -> History:
    """Train `model` in place and leave the averaged weights in it, in eval mode; returns the losses of every step.

    losses() draws a batch and returns scalars by name; the one called "loss" is what the step descends. A step that is not
    finite is left out; UserError after PATIENCE of them. fingerprint: only checkpoints with the same one are resumed. Raises
    Interrupted when a SIGTERM came.
    """
    ranks.start_alike(model)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    fused = bool(optimizer.defaults.get("fused"))
    reader = _Reader(loop, READ_EVERY if fused else 1)
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    history: History = []
    state = TrainingState(model, optimizer, average, rng, history, fingerprint)
    start = load_latest(checkpoint_dir, state) if checkpoint_dir else 0
    with _Asked() as asked:
        for step in range(start, loop.steps):
            for group in optimizer.param_groups:
                group["lr"] = loop.learning_rate * rate(step, loop.steps, loop.warmup, loop.floor)
            model.train()
            terms = losses()
            optimizer.zero_grad()
            terms["loss"].backward()
            terms, stop = ranks.agree(terms, trained, asked.to_stop)
            norm = nn.utils.clip_grad_norm_(trained, loop.clip_norm)
            finite = torch.isfinite(norm) & torch.isfinite(terms["loss"].detach())
            if fused:  # as a GradScaler says it
                optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
                optimizer.step()
            elif bool(finite):
                optimizer.step()
            _average(average, model, min(loop.ema, (1 + step) / (10 + step)))
            done = step + 1
            saved = bool(checkpoint_dir) and done % loop.checkpoint_every == 0
            history += reader(step, terms, finite, now=saved or stop or done == loop.steps)
            if done % loop.report_every == 0 or done == loop.steps:
                latest = mean_losses(history[-loop.report_every :])
                progress(done, loop.steps, " ".join(f"{name} {value:.4g}" for name, value in latest.items()))
            if checkpoint_dir and ranks.number() == 0 and (saved or stop or done == loop.steps):
                save_state(checkpoint_dir, done, state)
            if stop:
                raise Interrupted(f"{loop.stage}: ended after step {done} of {loop.steps}")
    model.load_state_dict(average)
    model.eval()
    return history


class _Asked:
    """`to_stop` once a SIGTERM has come, within the block; only the main thread hears of them."""

    def __init__(self) -> None:
        self.to_stop = False

    def __enter__(self) -> _Asked:
        self.listens = threading.current_thread() is threading.main_thread()
        if self.listens:
            self.before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def _hear(self, *_: object) -> None:
        self.to_stop = True

    def __exit__(self, *_: object) -> None:
        if self.listens:
            signal.signal(signal.SIGTERM, self.before)


class _Reader:
    """Losses on their way to the CPU. Raises UserError after PATIENCE steps in a row that were not finite."""

    def __init__(self, loop: Loop, every: int) -> None:
        self.loop, self.every, self.bad = loop, every, 0
        self.waiting: list[tuple[int, tuple[str, ...], Tensor]] = []  # step, names, values and whether finite

    def __call__(self, step: int, terms: Mapping[str, Tensor], finite: Tensor, *, now: bool) -> History:
        """The rows of all steps since they were last read, every `every` steps or `now`; else none."""
        values = [value.detach().float() for value in terms.values()]
        self.waiting.append((step, tuple(terms), torch.stack([*values, finite.float()])))
        if not now and len(self.waiting) < self.every:
            return []
        rows, waiting = torch.cat([values for *_, values in self.waiting]).tolist(), self.waiting
        self.waiting, history, at = [], [], 0
        for number, names, part in waiting:
            *found, was_finite = rows[at : at + len(part)]
            at += len(part)
            history.append(dict(zip(names, found, strict=True)))
            self.bad = 0 if was_finite else self.bad + 1
            if self.bad == PATIENCE:
                raise UserError(
                    f"{self.loop.stage}: loss not finite for {self.bad} steps up to step {number}; lower learning_rate"
                )
        return history


def rate(step: int, steps: int, warmup: int = 20, floor: float = 0.02) -> float:
    """Share of the learning rate at a step: linear warm-up times a cosine to `floor`."""
    warm = min(1.0, (step + 1) / warmup)
    return warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))


def mean_losses(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every term over the rows that have it and are finite."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {n: [r[n] for r in rows if n in r and math.isfinite(r[n])] for n in names}
    return {n: float(np.mean(v)) if v else math.nan for n, v in values.items()}


def history_rows(history: History, rows: int = 150) -> list[dict[str, float | str]]:
    """A training history as about `rows` rows of loss.csv, each the mean of its steps; empty where a term was absent."""
    every = max(1, len(history) // rows)
    names = sorted({name for row in history for name in row})
    out: list[dict[str, float | str]] = []
    for start in range(0, len(history), every):
        part = mean_losses(history[start : start + every])
        out.append({"step": min(start + every, len(history)), **{n: part.get(n, "") for n in names}})
    return out


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small run slower on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)
