"""What each stage needs of a machine: the one place that says it. Cores and the GPU follow from the parameters."""

from __future__ import annotations

from dataclasses import dataclass

from stages.common import RENDERING, TRAINING
from stages.params import Params


@dataclass(frozen=True)
class Needs:
    """cores at work, memory at the peak, the number of GPUs (and which, if the parameters name one), and the hours after which it
    is taken to hang."""

    cores: int = 1
    memory_gb: float = 1.0
    gpus: int = 0
    card: int | None = None
    hours: float = 24.0


# GB of one process at its peak in the laptop profile (data/logs), hours for the largest profile
_PROCESS = {
    "identities": (0.9, 12),
    "speech": (0.4, 24),
    "teacher": (1.0, 72),
    "score": (0.7, 240),
    "fit": (2.0, 120),
    "embed": (2.1, 120),
    "generator": (0.9, 240),
    "distill": (1.4, 240),
    "baseline": (0.9, 240),
    "evaluate": (1.8, 120),
    "report": (0.4, 4),
}
_POOLS = (
    "identities",
    "speech",
    "teacher",
    "score",
    "fit",
    "evaluate",
)  # work on clips in `run.workers` processes


def needs_of(stage: str, params: Params | None) -> Needs:
    """The needs of a stage or stage@shard. Without parameters, or for a stage of another project: one core."""
    name = stage.split("@")[0]
    if params is None or name not in _PROCESS:
        return Needs()
    memory, hours = _PROCESS[name]
    run = params.run
    processes = run.workers if name in _POOLS else 1
    together = run.processes if name in TRAINING else 1  # share each batch, a GPU each
    cores = max(processes, run.threads * together if name in TRAINING else 1)
    gpus = together if run.device != "cpu" and name in (*TRAINING, *RENDERING) else 0
    _, _, card = run.device.partition(":")
    peak = memory * max(processes, together)
    return Needs(cores, peak, gpus, int(card) if gpus and card else None, hours)


def longest_way(graph: dict[str, set[str]], params: Params | None) -> dict[str, float]:
    """{stage: hours from its start to the end of the run at most}: which of the stages that are ready goes first."""
    way: dict[str, float] = {}
    for stage in reversed(graph):  # topological order: what needs a stage comes after it
        after = (way[other] for other in way if stage in graph[other])
        way[stage] = needs_of(stage, params).hours + max(after, default=0.0)
    return way
