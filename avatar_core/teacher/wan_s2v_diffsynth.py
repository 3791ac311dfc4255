"""Teacher `wan_s2v_diffsynth`: Wan2.2-S2V-14B through diffsynth, in an environment of its own, 16 fps, many clips a start.

The program is `diffsynth_s2v`; the weights are those of `wan_s2v`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from avatar_core.config import ranged
from avatar_core.models.card import Card
from avatar_core.teacher import diffsynth_s2v
from avatar_core.teacher.checkouts import WeightsTeacher
from avatar_core.teacher.programs import Take

NEGATIVE = "blurry, static picture, overexposed, subtitles, low quality, deformed hands, extra fingers, badly drawn face"


@dataclass(frozen=True)
class WanByDiffSynth(WeightsTeacher):
    """version: of diffsynth, "" for the one that the calls were read from, any for what is there; side: px of a square video, a
    whole body's has the same area."""

    where: ClassVar[str] = "teacher.wan_s2v_diffsynth"
    about: ClassVar[Card] = Card(
        "Wan2.2-S2V-14B", "Apache-2.0", "yes", url="https://github.com/modelscope/DiffSynth-Studio"
    )
    hubs: ClassVar[dict[str, str]] = {"": "Wan-AI/Wan2.2-S2V-14B"}
    tested: ClassVar[str] = "2.1.12"
    lead_s: ClassVar[float | None] = None  # it writes no sound
    batch: int = ranged(16, 1, 1000)
    version: str = ""
    side: int = ranged(848, 256, 1280)
    steps: int = ranged(40, 1, 200)
    guidance: float = ranged(4.5, 1, 20)
    offload: bool = True  # networks wait in the CPU's memory
    negative_prompt: str = NEGATIVE

    @property
    def card(self) -> Card:
        return replace(
            self.about, revision=f"diffsynth {self.version or self.tested}", gpu_gb=0 if self.offload else 80
        )

    def size(self, framing: str) -> tuple[int, int]:
        width, height = (0.68, 1.2) if framing == "full_body" else (1, 1)
        return round(self.side * width / 16) * 16, round(self.side * height / 16) * 16

    def weight_files(self) -> list[str]:
        names = diffsynth_s2v.NETWORKS[1:], (diffsynth_s2v.TOKENIZER, diffsynth_s2v.LISTENER)
        return ["diffusion_pytorch_model.safetensors.index.json", *(name for part in names for name in part)]

    def command(self, takes: Sequence[Take], work: Path) -> list[str]:
        clips = [
            {
                "image": str(take.image.resolve()), "audio": str(take.audio.resolve()), "prompt": take.prompt,
                "negative_prompt": self.negative_prompt, "seed": take.request.seed, "out": str(out.resolve()),
            }
            for take, out in zip(takes, self.made(takes, work), strict=True)
        ]  # fmt: skip
        job = {
            "version": self.version or self.tested, "weights": str(Path(self.weights).resolve()), "offload": self.offload,
            "steps": self.steps, "guidance": self.guidance, "clips": clips,
        }  # fmt: skip
        (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
        return [str(Path(diffsynth_s2v.__file__).resolve()), "job.json"]

    def made(self, takes: Sequence[Take], work: Path) -> list[Path]:
        return [take.folder / "made.mp4" for take in takes]
