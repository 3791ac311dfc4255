"""Score teachers that are published video models: what their backends have in common.

Stage `score` trains nothing: it puts the prompts through the text encoder, which is then done with, and keeps them in its
checkpoint. Stage `distill` loads denoiser and autoencoder. How a velocity becomes the paper's score: `score.flow`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from avatar_core.config import one_of, ranged
from avatar_core.errors import UserError
from avatar_core.models.pipeline import DTYPES

if TYPE_CHECKING:
    from torch import Tensor

    from avatar_core.device import Compute
    from avatar_core.models.card import Card
    from avatar_core.progress import Progress
    from avatar_core.score.clips import ScoreClip
    from avatar_core.score.flow import FlowScore
    from avatar_core.training.loop import History

PROMPT = (
    "A realistic video of a person speaking directly to the camera, with natural head movements and expressive hand gestures. "
    "The camera is still, the background does not move."
)
NEGATIVE = "blurry, distorted face, deformed hands, jittery motion, mismatched lip sync, low quality"


@dataclass(frozen=True)
class PublishedScore:
    """size: px of a square picture; frames: of a clip, at 25 a second.

    text_guidance: 1 for none, else each step calls the denoiser once more with the negative prompt; `distill.vsd_guidance` is
    the sound's. checkpointing: what can keeps less, and computes twice.
    """

    where: ClassVar[str]  # the key of its section
    mouth: ClassVar[bool] = False
    size: int = ranged(256, 32, 2048)
    frames: int = ranged(25, 8, 257)
    prompt: str = PROMPT
    negative_prompt: str = NEGATIVE
    text_guidance: float = ranged(3.0, 1, 20)
    dtype: str = one_of("bf16", *DTYPES)
    checkpointing: bool = True

    @property
    @abstractmethod
    def card(self) -> Card: ...

    @property
    def about(self) -> dict[str, str]:
        """Whose prompts and weights these are, for the checkpoint."""
        return self.card.row

    @abstractmethod
    def lacking(self) -> list[str]:
        """See `models.card.Published`."""

    @abstractmethod
    def verify(self) -> None:
        """Read local folders whole. Raises UserError for one that has not the declared digest."""

    @abstractmethod
    def prompts(self, device: str) -> dict[str, Tensor]:
        """What the denoiser reads of prompt and negative prompt, on the CPU; the text encoder runs on the device."""

    @abstractmethod
    def network(self, prompts: Mapping[str, Tensor]) -> FlowScore:
        """The published weights, on the CPU."""

    def train(
        self,
        clips: Sequence[ScoreClip],
        seed: int,
        checkpoint_dir: Path,
        progress: Progress,
        compute: Compute,
    ) -> tuple[FlowScore, History]:
        """The published weights with our prompts; nothing learns."""
        self._check()
        if not any(len(clip.frames) >= self.frames for clip in clips):
            raise UserError(
                f"{self.where}.frames: expected clips of {self.frames} frames, found shorter ones alone"
            )
        return self.network(self.prompts(compute.device)).to(compute.device), []

    def load(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> FlowScore:
        """What `train` left of a score stage's prompts, with the weights where they lie."""
        if any(config.get(name) != value for name, value in self.about.items()):
            raise UserError(
                f"{self.where}: expected prompts of {self.card.id}, found those of {config.get('model')}; run `dvc repro score`"
            )
        self._check()
        return self.network(tensors)

    def evaluate(
        self, teacher: FlowScore, clips: Sequence[ScoreClip], seed: int = 0
    ) -> dict[str, float | None]:
        from avatar_core.score.flow import evaluate_flow

        return evaluate_flow(teacher, clips, seed)

    def _check(self) -> None:
        for line in self.lacking():
            raise UserError(line)
        self.verify()
