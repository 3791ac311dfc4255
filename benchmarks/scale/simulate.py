"""A discrete simulation of the scheduler: shards of `teacher` and `fit` over workers that fail."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Fleet:
    """workers: so many; failures_an_hour: of each; silence: seconds until a lost worker is given up (flows.dispatch); repair: until
    another takes its place. before, after: seconds from an item's arrival at a worker until it could compute, and from there until
    its outputs are with the others; notice: until the coordinator has seen an end and sent what waited for it, all three as
    `benchmarks.scale.overhead` measures them. places: items that a worker has at a time, of which one computes."""

    workers: int = 64
    failures_an_hour: float = 0.01
    silence: float = 100.0
    repair: float = 600.0
    before: float = 10.0
    after: float = 1.0
    places: int = 3
    notice: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """makespan in seconds; useful: work of items that ended well, seconds; lost: work of items whose worker failed; failures; idle:
    seconds at the end in which no item waited for a worker."""

    makespan: float
    useful: float
    lost: float
    failures: int
    idle: float

    def utilisation(self, fleet: Fleet) -> float:
        return self.useful / (fleet.workers * self.makespan)


@dataclass
class _Worker:
    free: int
    life: int = 0  # what was said of an earlier life is void
    queue: deque[tuple[int, int]] = field(default_factory=deque)  # ready to compute
    held: set[tuple[int, int]] = field(default_factory=set)
    computes: tuple[float, tuple[int, int]] | None = None  # since when, what


def simulate(chains: np.ndarray, fleet: Fleet, seed: int = 0) -> Outcome:
    """chains (S,K): seconds of the K items of each of S shards, in the order in which they need each other.

    The items of a worker that fails start anew elsewhere. Items that have most work behind them go first.
    """
    rng = np.random.default_rng(seed)
    shards, length = chains.shape
    behind = chains[:, ::-1].cumsum(1)[:, ::-1]
    waiting = [(-behind[s, 0], s, 0) for s in range(shards)]
    heapq.heapify(waiting)
    workers = [_Worker(fleet.places) for _ in range(fleet.workers)]
    events: list[tuple[float, int, str, int, int, tuple[int, int]]] = []
    order, now, useful, lost, failures, done, waited = 0, 0.0, 0.0, 0.0, 0, 0, 0.0

    def at(delay: float, what: str, w: int, item: tuple[int, int] = (0, 0)) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (now + delay, order, what, w, workers[w].life, item))

    def compute(w: int) -> None:
        worker = workers[w]
        if worker.queue and worker.computes is None:
            item = worker.queue.popleft()
            worker.computes = (now, item)
            at(chains[item], "computed", w, item)

    def live(w: int) -> None:
        if fleet.failures_an_hour:
            at(rng.exponential(3600 / fleet.failures_an_hour), "fails", w)

    for w in range(fleet.workers):
        live(w)
    while done < shards * length:
        while waiting and (w := max(range(fleet.workers), key=lambda k: workers[k].free)) is not None:
            if not workers[w].free:
                waited = now
                break
            _, s, k = heapq.heappop(waiting)
            workers[w].free -= 1
            workers[w].held.add((s, k))
            at(fleet.before, "ready", w, (s, k))
        now, _, what, w, life, item = heapq.heappop(events)
        worker = workers[w]
        if what == "waits":
            heapq.heappush(waiting, (-behind[item], *item))
        elif what == "repaired":
            worker.free = fleet.places
            live(w)
        elif life != worker.life:
            continue
        elif what == "ready":
            worker.queue.append(item)
            compute(w)
        elif what == "computed":
            worker.computes = None
            at(fleet.after, "done", w, item)
            compute(w)
        elif what == "done":
            useful, done, worker.free = useful + chains[item], done + 1, worker.free + 1
            worker.held.remove(item)
            if item[1] + 1 < length:
                at(fleet.notice, "waits", w, (item[0], item[1] + 1))
        else:  # fails
            failures += bool(worker.held)
            lost += now - worker.computes[0] if worker.computes else 0.0
            for item in sorted(worker.held):
                at(fleet.silence, "waits", w, item)
            at(fleet.repair, "repaired", w)
            workers[w] = _Worker(0, worker.life + 1)
    return Outcome(now, useful, lost, failures, now - waited)


def shard_seconds(
    frames: np.ndarray, clips: int, shards: int, seconds_a_frame: list[float], seed: int = 0
) -> np.ndarray:
    """(S,K) seconds: `clips` clips of lengths drawn from `frames`, dealt to shards by person as the pipeline does; K stages."""
    rng = np.random.default_rng(seed)
    lengths = rng.choice(frames, clips)
    totals = np.array([part.sum() for part in np.array_split(lengths, shards)])
    return totals[:, None] * np.array(seconds_a_frame)[None]
