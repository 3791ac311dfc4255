"""A discrete simulation of the scheduler: shards of `teacher` and `fit` over workers that fail."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fleet:
    """workers: so many; failures_an_hour: of each; silence: seconds until a lost worker is given up (flows.dispatch); repair: until
    another takes its place; overhead: seconds from one stage's end to the next one's start, as measured with real workers."""

    workers: int = 64
    failures_an_hour: float = 0.01
    silence: float = 100.0
    repair: float = 600.0
    overhead: float = 25.0


@dataclass(frozen=True)
class Outcome:
    """makespan in seconds; useful: work of items that ended well, seconds; lost: work of items whose worker failed; failures; idle:
    seconds at the end in which not all workers had work, weighted by how many had none; most_queued: items at the same time."""

    makespan: float
    useful: float
    lost: float
    failures: int
    idle: float
    most_queued: int

    def utilisation(self, fleet: Fleet) -> float:
        return self.useful / (fleet.workers * self.makespan)


def simulate(chains: np.ndarray, fleet: Fleet, seed: int = 0) -> Outcome:
    """chains (S,K): seconds of the K items of each of S shards, in the order in which they need each other.

    An item whose worker fails starts anew elsewhere. Items that have most work behind them go first.
    """
    rng = np.random.default_rng(seed)
    shards, length = chains.shape
    behind = chains[:, ::-1].cumsum(1)[:, ::-1]
    ready = [(-behind[s, 0], s, 0) for s in range(shards)]
    heapq.heapify(ready)
    most_queued = len(ready)
    # events: (time, order, what, (shard, item)); a worker is a number of free places
    events: list[tuple[float, int, str, tuple[int, int]]] = []
    free, order, now, useful, lost, failures, done = fleet.workers, 0, 0.0, 0.0, 0.0, 0, 0
    full_until = 0.0

    def at(time: float, what: str, item: tuple[int, int]) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (time, order, what, item))

    while done < shards * length:
        while free and ready:
            _, s, k = heapq.heappop(ready)
            free -= 1
            work = chains[s, k]
            fails = rng.exponential(3600 / fleet.failures_an_hour) if fleet.failures_an_hour else np.inf
            if fails < fleet.overhead + work:
                failures += 1
                lost += max(0.0, fails - fleet.overhead)
                at(now + fails + fleet.silence, "again", (s, k))
                at(now + fails + fleet.repair, "repaired", (s, k))
            else:
                at(now + fleet.overhead + work, "done", (s, k))
        if not free:
            full_until = now
        now, _, what, (s, k) = heapq.heappop(events)
        if what == "done":
            useful, done, free = useful + chains[s, k], done + 1, free + 1
            if k + 1 < length:
                heapq.heappush(ready, (-behind[s, k + 1], s, k + 1))
        elif what == "again":
            heapq.heappush(ready, (-behind[s, k], s, k))
        else:
            free += 1
        most_queued = max(most_queued, len(ready))
    return Outcome(now, useful, lost, failures, max(0.0, now - full_until), most_queued)


def shard_seconds(
    frames: np.ndarray, clips: int, shards: int, seconds_a_frame: list[float], seed: int = 0
) -> np.ndarray:
    """(S,K) seconds: `clips` clips of lengths drawn from `frames`, dealt to shards by person as the pipeline does; K stages."""
    rng = np.random.default_rng(seed)
    lengths = rng.choice(frames, clips)
    totals = np.array([part.sum() for part in np.array_split(lengths, shards)])
    return totals[:, None] * np.array(seconds_a_frame)[None]
