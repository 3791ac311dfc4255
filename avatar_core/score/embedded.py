"""The embedded score teacher: the small network of `score.network`, trained on the run's own clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from avatar_core.score.config import ScoreConfig

if TYPE_CHECKING:
    from torch import Tensor

    from avatar_core.device import Compute
    from avatar_core.progress import Progress
    from avatar_core.score.clips import ScoreClip
    from avatar_core.score.network import ScoreNetwork
    from avatar_core.training.loop import History


@dataclass(frozen=True)
class EmbeddedScore(ScoreConfig):
    """The network's own config."""

    mouth: ClassVar[bool] = True

    def hear(self, audio: Tensor) -> Tensor:
        from avatar_core.audio.features import log_mel

        return log_mel(audio)

    def train(
        self,
        clips: Sequence[ScoreClip],
        seed: int,
        checkpoint_dir: Path,
        progress: Progress,
        compute: Compute,
    ) -> tuple[ScoreNetwork, History]:
        from avatar_core.score.train import train_score

        return train_score(clips, replace(self, seed=seed), checkpoint_dir, progress, compute)

    def load(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> ScoreNetwork:
        from avatar_core.score.network import ScoreNetwork

        return ScoreNetwork.from_tensors(tensors, config)

    def evaluate(self, teacher: ScoreNetwork, clips: Sequence[ScoreClip], seed: int = 0) -> dict[str, float]:
        from avatar_core.score.train import evaluate_score

        return evaluate_score(teacher, clips, seed)
