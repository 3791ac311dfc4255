"""Score teachers: what score distillation asks how rendered clips should change. A registry of backends and what they owe.

Legend: B clips, F frames a clip, H = W pixels, T frames of a whole clip, M mel bands. Clips are in [-1, 1]; x: what a teacher's
diffusion is about, the clips themselves or latents of theirs.
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

BACKENDS = {
    "embedded": "avatar_core.score.embedded:EmbeddedScore",
    "ltx2": "avatar_core.score.ltx2:LTX2Score",
    "wan_s2v": "avatar_core.score.wan_s2v:WanS2VScore",
}


class ScoreTeacher(Protocol):
    """A video diffusion model of clips (B,F,3,H,W) given log-mel (B,4(F+2 AUDIO_CONTEXT),M) and a reference (B,3,H,W)."""

    @property
    def size(self) -> int:
        """H = W in pixels."""
        ...

    @property
    def frames(self) -> int:
        """F."""
        ...

    def reference_frame(self, start: int) -> int:
        """Which of a clip's frames is the reference of those from `start` on."""
        ...

    def encode(self, clips: Tensor) -> Tensor:
        """Clips -> x, with gradients."""
        ...

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """alpha(tau), sigma(tau) of steps (B,) in 0..999, as (B,1,1,1,1)."""
        ...

    def predict(
        self, noisy: Tensor, timesteps: Tensor, log_mel: Tensor, reference: Tensor, guidance: float = 1.0
    ) -> Tensor:
        """The noise eps in noisy x, with classifier-free guidance on the sound when guidance is not 1."""
        ...

    def sample(
        self, log_mel: Tensor, reference: Tensor, seed: int = 0, steps: int = 20, guidance: float = 1.0
    ) -> Tensor:
        """Clips of the reference saying log_mel."""
        ...

    def denoising_loss(
        self, clips: Tensor, timesteps: Tensor, noise: Tensor, log_mel: Tensor, reference: Tensor
    ) -> Tensor:
        """What its own training minimises, as a scalar with gradients; clips: x."""
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

    @property
    def mouth(self) -> bool:
        """Does it look at the mouth of close clips alone, rather than at all of every clip?"""
        ...

    def hear(self, audio: Tensor) -> Tensor:
        """(S,) at 16 kHz -> log-mel (4T,M)."""
        ...

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

    def evaluate(
        self, teacher: ScoreTeacher, clips: Sequence[ScoreClip], seed: int = 0
    ) -> Mapping[str, float | None]:
        """Numbers that say how well it knows clips, for the stage's report; None where that cannot be said."""
        ...
