"""The part of evaluation that lets the score teacher talk: row `video_diffusion`.

The embedded score teacher is a small video diffusion model of a window on the mouth, no more. So its samples are set, with a soft
edge, into our own pictures: all else in the row is ours. Of the teacher's clip it knows the sound alone; its reference is the mouth
of the first of our pictures. It has learnt close clips; in others the mouth is smaller than its window, and it is judged there too.
There are no particles, so lips and vertices against the true surface are left out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from avatar_core.clock import MEL_PER_FRAME
from avatar_core.errors import UserError
from avatar_core.metrics.clip import Value
from avatar_core.perception.instruments import Critics
from avatar_core.perception.mouth import mouth_window
from avatar_core.score.clips import to_signed
from avatar_core.score.embedded import EmbeddedScore
from avatar_core.score.network import ScoreNetwork
from avatar_core.score.whole import sample_whole
from stages.artifacts import Artifacts
from stages.common import Stage

SOFT = 0.2  # of the window's side, its edge


def why_not(stage: Stage) -> str:
    """Why there is no such row; empty where there is one."""
    if not stage.params.evaluate.video_diffusion:
        return "not run: params.yaml: evaluate.video_diffusion is false"
    if not isinstance(stage.params.score.teacher, EmbeddedScore):
        return (
            f"not run: only the embedded score teacher is sampled, and score.backend is {stage.params.score.backend}; "
            "evaluate.baselines has published video models"
        )
    return ""


def load_talker(stage: Stage) -> ScoreNetwork | None:
    """What makes the row, on the stage's device; None where `why_not` says why."""
    if why_not(stage):
        return None
    network = ScoreNetwork.from_tensors(*Artifacts.of(stage).checkpoint("score", "score"))
    return network.to(stage.compute.device)


def diffused(
    network: ScoreNetwork, frames: np.ndarray, log_mel: np.ndarray, critics: Critics, seed: int
) -> np.ndarray | None:
    """Our frames (T,H,W,3) uint8 with a mouth sampled from log_mel (4T or more,M) set in; None where they show no mouth at all."""
    try:
        window = mouth_window(frames, critics)
    except UserError:
        return None
    reference = to_signed(torch.from_numpy(window.cut(frames, network.size)[0]))
    heard = torch.from_numpy(log_mel[: MEL_PER_FRAME * len(frames)])
    sampled = sample_whole(network, heard, reference, seed=seed)
    mouths = ((sampled + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()
    return window.paste(frames, mouths, SOFT)


def noted(values: dict[str, Value], size: int) -> dict[str, Value]:
    """The row's values by metric, each saying what of its pictures is sampled: a window of `size` px."""
    note = f"a mouth window of {size} px, sampled and set into our video; the rest is ours"
    return {
        name: replace(value, note="; ".join(part for part in (note, value.note) if part))
        for name, value in values.items()
    }
