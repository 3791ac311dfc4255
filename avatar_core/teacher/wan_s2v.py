"""Teacher `wan_s2v`: Wan2.2-S2V-14B by its own generate.py, 16 fps, chained clips of 80 frames.

    python generate.py --task s2v-14B --size W*H --ckpt_dir D --prompt P --image I --audio A --base_seed S --save_file F ...

The size is an area; the shape follows the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avatar_core.config import one_of, ranged
from avatar_core.models.card import Card
from avatar_core.teacher.checkouts import CheckoutTeacher
from avatar_core.teacher.programs import Take

AREAS = {"480p": "832*480", "704p": "1024*704", "720p": "1280*720"}


@dataclass(frozen=True)
class WanSpeechToVideo(CheckoutTeacher):
    """weights: the folder Wan2.2-S2V-14B. 16 pictures a second say less about lips than 25 do."""

    where: ClassVar[str] = "teacher.wan_s2v"
    about: ClassVar[Card] = Card(
        "Wan2.2-S2V-14B", "Apache-2.0", "yes", gpu_gb=80, url="https://github.com/Wan-Video/Wan2.2"
    )
    script: ClassVar[str] = "generate.py"
    hubs: ClassVar[dict[str, str]] = {"": "Wan-AI/Wan2.2-S2V-14B"}
    tested: ClassVar[str] = "42bf4cfaa384bc21833865abc2f9e6c0e67233dc"
    area: str = one_of("704p", *AREAS)
    steps: int = ranged(40, 1, 200)
    guidance: float = ranged(4.5, 1, 20)
    offload: bool = True  # parts wait in the CPU's memory
    batch: int = ranged(1, 1, 1)  # the program makes one video a start

    def size(self, framing: str) -> tuple[int, int]:
        return (576, 1024) if framing == "full_body" else (848, 848)

    def weight_files(self) -> list[str]:
        return [
            "config.json",
            "Wan2.1_VAE.pth",
            "models_t5_umt5-xxl-enc-bf16.pth",
            "wav2vec2-large-xlsr-53-english",
        ]

    def options(self, takes: Sequence[Take], work: Path) -> list[str]:
        (take,) = takes
        (video,) = self.made(takes, work)
        return [
            "--task", "s2v-14B", "--size", AREAS[self.area], "--ckpt_dir", str(Path(self.weights).resolve()),
            "--offload_model", str(self.offload), "--convert_model_dtype", "--prompt", take.prompt,
            "--image", str(take.image.resolve()), "--audio", str(take.audio.resolve()),
            "--sample_steps", str(self.steps), "--sample_guide_scale", str(self.guidance),
            "--base_seed", str(take.request.seed), "--save_file", str(video.resolve()),
        ]  # fmt: skip

    def made(self, takes: Sequence[Take], work: Path) -> list[Path]:
        return [take.folder / "made.mp4" for take in takes]
