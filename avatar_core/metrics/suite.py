"""The ten metrics of the paper over a set of clips: IQA ASE SyncC SyncD HKC CSIM SSIM PSNR FID FVD.

Each is a class behind a registry; what stands behind a value (`embedded`, `reference`, `formula`) is named with it. What could not
run is `unavailable` and says why, never 0. `embedded` values of critics trained on procedural people must not be set beside
published numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avatar_core.backends import backend_class
from avatar_core.errors import UserError
from avatar_core.metrics.clip import Clip, Look, Metric, Value, unavailable

if TYPE_CHECKING:
    from avatar_core.perception.instruments import Critics

METRICS = {
    "IQA": "avatar_core.metrics.clipwise:IQA",
    "ASE": "avatar_core.metrics.clipwise:ASE",
    "SyncC": "avatar_core.metrics.clipwise:SyncC",
    "SyncD": "avatar_core.metrics.clipwise:SyncD",
    "HKC": "avatar_core.metrics.clipwise:HKC",
    "CSIM": "avatar_core.metrics.clipwise:CSIM",
    "SSIM": "avatar_core.metrics.clipwise:SSIM",
    "PSNR": "avatar_core.metrics.clipwise:PSNR",
    "FID": "avatar_core.metrics.distributions:FID",
    "FVD": "avatar_core.metrics.distributions:FVD",
}


def all_metrics() -> dict[str, Metric]:
    """Every metric of the registry with its own parameters, in the paper's order."""
    return {name: backend_class(METRICS, name, "", "metrics")() for name in METRICS}


@dataclass(frozen=True)
class ClipScores:
    """What is kept of a clip: by metric what it measured, or why it could not; `offset`: of the sound in frames (> 0: late), where
    the mouth was seen."""

    id: str
    person: str
    parts: dict[str, Any]
    missing: dict[str, str]
    offset: int | None


def score_clip(
    clip: Clip, critics: Critics, metrics: Mapping[str, Metric], device: str = "cpu"
) -> ClipScores:
    """Run every metric on one clip, published networks on a device."""
    look, parts, missing = Look(clip, critics, device), {}, {}
    for name, metric in metrics.items():
        try:
            parts[name] = metric.measure(look)
        except (ValueError, UserError) as error:
            missing[name] = str(error)
    try:
        offset = look.sync.offset if {"SyncC", "SyncD"} & parts.keys() else None
    except ValueError:
        offset = None
    return ClipScores(clip.id, clip.person or clip.id, parts, missing, offset)


def summarise(
    measured: Sequence[ClipScores],
    metrics: Mapping[str, Metric],
    *,
    draws: int = 1000,
    seed: int = 0,
    why: str | None = None,
) -> dict[str, Value]:
    """Clips of one row (ours, ground truth, mismatched audio...) -> metric -> Value. why: there are none."""
    values: dict[str, Value] = {}
    for name, metric in metrics.items():
        parts = [j.parts[name] for j in measured if name in j.parts]
        people = [j.person for j in measured if name in j.parts]
        reasons = sorted({j.missing[name] for j in measured if name in j.missing})
        try:
            values[name] = (
                metric.summarise(name, parts, people, draws, seed)
                if parts
                else unavailable(name, metric.backend, "; ".join(reasons) or why or "no clips")
            )
        except ValueError as error:
            values[name] = unavailable(name, metric.backend, str(error))
    return values
