"""Teacher `omniavatar`: OmniAvatar 14B or 1.3B, an audio-driven video model on Wan2.1, 25 fps.

    torchrun ... scripts/inference.py --config configs/inference.yaml --input_file FILE --hparams=seed=...,num_steps=...

A line of the input file is `prompt@@image@@audio`; the video of line k is demo_out/*/res_<input file>*/result_<k>_000_wav.mp4. The
reference picture is its first frame, after `silence_duration_s` of silence, so the sound comes later by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from avatar_core.config import one_of, ranged
from avatar_core.errors import UserError
from avatar_core.models.card import Card
from avatar_core.teacher.checkouts import CheckoutTeacher
from avatar_core.teacher.programs import Take

SILENCE_S = 0.32  # the project has 0.3, which is no whole number of pictures
BASES = {"14B": [f"diffusion_pytorch_model-0000{k}-of-00006.safetensors" for k in range(1, 7)],
         "1.3B": ["diffusion_pytorch_model.safetensors"]}  # fmt: skip
INPUTS = "clips.txt"


@dataclass(frozen=True)
class OmniAvatar(CheckoutTeacher):
    """weights: the folder that the project calls pretrained_models. One seed a start, so that a clip depends on its batch."""

    where: ClassVar[str] = "teacher.omniavatar"
    about: ClassVar[Card] = Card(
        "OmniAvatar", "Apache-2.0", "yes", "code and Wan2.1; read the weights' own page",
        gpu_gb=36, url="https://github.com/Omni-Avatar/OmniAvatar",
    )  # fmt: skip
    script: ClassVar[str] = "scripts/inference.py"
    tested: ClassVar[str] = "1536bf31abaec74364fb7d5883470d5b23ffa7f8"
    lead_s: ClassVar[float] = SILENCE_S + 1 / 25
    starter: ClassVar[str] = "/opt/env/bin/torchrun, --standalone, --nproc_per_node=1"
    hubs: ClassVar[dict[str, str]] = {
        "": "",
        "wav2vec2-base-960h": "facebook/wav2vec2-base-960h",
        **{f"Wan2.1-T2V-{size}": f"Wan-AI/Wan2.1-T2V-{size}" for size in BASES},
        **{f"OmniAvatar-{size}": f"OmniAvatar/OmniAvatar-{size}" for size in BASES},
    }
    batch: int = ranged(16, 1, 1000)
    model: str = one_of("14B", "1.3B")
    steps: int = ranged(25, 1, 200)
    guidance: float = ranged(4.5, 1, 20)
    overlap: int = ranged(13, 1, 81)  # frames, 1 + 4 n
    persistent_params: int = ranged(-1, -1)  # of the network that stay on the GPU; -1: all of them

    @property
    def card(self) -> Card:
        memory = 36.0 if self.persistent_params < 0 else 8 + 2e-9 * self.persistent_params
        return replace(
            super().card, id=f"OmniAvatar-{self.model}", gpu_gb=memory if self.model == "14B" else 0.0
        )

    def size(self, framing: str) -> tuple[int, int]:
        return (400, 720) if framing == "full_body" else (720, 720)

    def weight_files(self) -> list[str]:
        base = f"Wan2.1-T2V-{self.model}"
        names = ["models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth", *BASES[self.model]]
        own = f"OmniAvatar-{self.model}"
        return [
            *(f"{base}/{name}" for name in names),
            f"{own}/pytorch_model.pt",
            "wav2vec2-base-960h/config.json",
        ]

    def laid_out(self, take: Take) -> None:
        if "@@" in take.prompt or "\n" in take.prompt:
            raise UserError(f"{self.where}.prompt: expected one line without @@, found {take.prompt[:60]!r}")
        if self.overlap % 4 != 1:
            raise UserError(f"{self.where}.overlap: expected 1 + 4 n, found {self.overlap}")

    def options(self, takes: Sequence[Take], work: Path) -> list[str]:
        (work / "pretrained_models").symlink_to(Path(self.weights).resolve())  # the configs name it by this
        lines = [f"{t.prompt}@@{t.image.resolve()}@@{t.audio.resolve()}" for t in takes]
        (work / INPUTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        config = "inference.yaml" if self.model == "14B" else f"inference_{self.model}.yaml"
        values = {
            "seed": takes[0].request.seed, "num_steps": self.steps, "guidance_scale": self.guidance,
            "overlap_frame": self.overlap, "silence_duration_s": SILENCE_S,
        }  # fmt: skip
        if self.persistent_params >= 0:
            values["num_persistent_param_in_dit"] = self.persistent_params
        return [
            "--config", str(Path(self.checkout, "configs", config).resolve()), "--input_file", INPUTS,
            "--hparams=" + ",".join(f"{name}={value}" for name, value in values.items()),
        ]  # fmt: skip

    def made(self, takes: Sequence[Take], work: Path) -> list[Path]:
        folders = sorted((work / "demo_out").glob(f"*/res_{Path(INPUTS).stem}_*"))
        folder = folders[-1] if folders else work / "demo_out"
        return [folder / f"result_{k:03d}_000_wav.mp4" for k in range(len(takes))]
