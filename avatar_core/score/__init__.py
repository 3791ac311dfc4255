"""Score teachers: what score distillation asks how rendered clips should change. A registry of backends and what they owe.

Legend: B clips, F frames a clip, H = W pixels, T frames of a whole clip. Clips are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avatar_core.device import Compute
    from avatar_core.progress import Progress
    from avatar_core.score.clips import ScoreClip
    from avatar_core.training.loop import History

BACKENDS = {"embedded": "avatar_core.score.embedded:EmbeddedScore"}


class ScoreTeacher(Protocol):
    """A video diffusion model of clips (B,F,3,H,W) given log-mel (B,4(F+2 AUDIO_CONTEXT),80) and a reference (B,3,H,W)."""

    @property
    def size(self) -> int:
        """H = W in pixels."""
        ...

    @property
    def frames(self) -> int:
        """F."""
        ...

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """alpha(tau), sigma(tau) of steps (B,) in 0..999, as (B,1,1,1,1)."""
        ...

    def predict(
        self, noisy: Tensor, timesteps: Tensor, log_mel: Tensor, reference: Tensor, guidance: float = 1.0
    ) -> Tensor:
        """The noise eps in noisy clips, with classifier-free guidance on the sound when guidance is not 1."""
        ...

    def sample(
        self, log_mel: Tensor, reference: Tensor, seed: int = 0, steps: int = 20, guidance: float = 1.0
    ) -> Tensor:
        """Clips of the reference saying log_mel."""
        ...

    def denoising_loss(
        self, clips: Tensor, timesteps: Tensor, noise: Tensor, log_mel: Tensor, reference: Tensor
    ) -> Tensor:
        """What its own training minimises, as a scalar with gradients."""
        ...

    def copy(self) -> Self:
        """Another with parameters of its own, to learn another distribution."""
        ...

    def to(self, device: str) -> Self:
        """Itself, moved to a device, where what it is asked about must be too."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its trainable tensors."""
        ...

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds: tensors and config."""
        ...


class ScoreBackend(Protocol):
    """How to come by a score teacher. The fields are its parameters; size and frames say which clips it is to see."""

    @property
    def size(self) -> int: ...

    def train(
        self,
        clips: Sequence[ScoreClip],
        seed: int,
        checkpoint_dir: Path,
        progress: Progress,
        compute: Compute,
    ) -> tuple[ScoreTeacher, History]:
        """From clips of `size` px, on a device; resumes from checkpoint_dir. UserError where the clips do not do."""
        ...

    def load(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> ScoreTeacher:
        """What `tensors` of its teacher gave."""
        ...

    def evaluate(self, teacher: ScoreTeacher, clips: Sequence[ScoreClip], seed: int = 0) -> dict[str, float]:
        """Numbers that say how well it knows clips, for the stage's report."""
        ...
