"""Published systems that `evaluate` compares with ours on the same test clips: their videos from a folder, or by their program.

They never train anything here, so licences that forbid that allow them. OmniAvatar and EchoMimicV2 run as the teachers of their
names do, HunyuanVideo-Avatar by its sample_gpu_poor.py; LHM and PERSONA are driven by motion, which they take from the teacher's
own video, by a command of yours.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from avatar_core.config import list_of, ranged
from avatar_core.errors import UserError
from avatar_core.models.card import Card
from avatar_core.teacher.checkouts import CheckoutTeacher
from avatar_core.teacher.command import PLACES, CommandTeacher
from avatar_core.teacher.echomimic import EchoMimicV2
from avatar_core.teacher.omniavatar import OmniAvatar
from avatar_core.teacher.programs import ProgramTeacher, Take

if TYPE_CHECKING:
    _Program = ProgramTeacher
else:  # its fields would hide those with other values of the teacher that a baseline runs as
    _Program = object


@dataclass(frozen=True)
class Baseline(_Program):
    """path: a folder with `<clip>.mp4` for each test clip of a framing that it does, made elsewhere; empty: by its program."""

    path: str = ""

    @property
    def chosen(self) -> bool:
        """Whether a key of its section is given."""
        return self != type(self)()

    def lacking(self) -> list[str]:
        if not self.path:
            return super().lacking()
        if Path(self.path).is_dir():
            return []
        return [f"{self.where}.path: expected a folder of videos, found no {self.path}; make it"]

    def how(self) -> str:
        """How to run it, in a line."""
        card = self.card
        return (
            f"{self.where}: give `path`, a folder with <clip>.mp4 for each test clip of {', '.join(self.framings)}, or `checkout`, "
            f"`weights` and `launcher` of {card.url} at {card.revision[:12]}; `avatar doctor` says what lacks"
        )


@dataclass(frozen=True)
class OmniAvatarBaseline(Baseline, OmniAvatar):
    where: ClassVar[str] = "evaluate.omniavatar"


@dataclass(frozen=True)
class EchoMimicBaseline(Baseline, EchoMimicV2):
    where: ClassVar[str] = "evaluate.echomimic_v2"
    poses: str = ""


@dataclass(frozen=True)
class HunyuanVideoAvatar(Baseline, CheckoutTeacher):
    """weights: the folder with `ckpts`. Up to 129 frames a clip, as its low-memory script makes them; longer ones up to 400."""

    where: ClassVar[str] = "evaluate.hunyuan_video_avatar"
    about: ClassVar[Card] = Card(
        "HunyuanVideo-Avatar", "Tencent Hunyuan community licence", "no",
        "clause 5(b): its output may improve no other AI model; not licensed in the EU, the UK and South Korea",
        gpu_gb=24, url="https://github.com/Tencent-Hunyuan/HunyuanVideo-Avatar",
    )  # fmt: skip
    script: ClassVar[str] = "hymm_sp/sample_gpu_poor.py"
    hubs: ClassVar[dict[str, str]] = {"": "tencent/HunyuanVideo-Avatar"}
    tested: ClassVar[str] = "fd59436af88e747c7e48055fd65df8233c4ff2eb"
    model: ClassVar[str] = "ckpts/hunyuan-video-t2v-720p/transformers/mp_rank_00_model_states_fp8.pt"
    batch: int = ranged(16, 1, 1000)
    steps: int = ranged(50, 1, 200)
    guidance: float = ranged(7.5, 1, 20)
    offload: bool = False  # blocks wait in the CPU's memory

    def size(self, framing: str) -> tuple[int, int]:
        return (704, 1216) if framing == "full_body" else (704, 704)

    def weight_files(self) -> list[str]:
        folders = ("llava_llama_image", "text_encoder_2", "whisper-tiny", "hunyuan-video-t2v-720p/vae")
        return [self.model, "ckpts/det_align/detface.pt", *(f"ckpts/{name}" for name in folders)]

    def variables(self) -> dict[str, str]:
        places = {
            "MODEL_BASE": str(Path(self.weights).resolve()),
            "PYTHONPATH": str(Path(self.checkout).resolve()),
        }
        return places | ({"CPU_OFFLOAD": "1"} if self.offload else {"DISABLE_SP": "1"})

    def laid_out(self, take: Take) -> None:
        if take.request.num_frames > 390:  # it takes 400, and silence comes after the sound
            raise UserError(
                f"{self.where}: expected clips of 390 frames at most, found {take.request.num_frames} ({take.request.name})"
            )

    def options(self, takes: Sequence[Take], work: Path) -> list[str]:
        with open(work / "clips.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["videoid", "image", "audio", "prompt", "fps"])
            for take in takes:
                rows.writerow(
                    [take.request.name, take.image.resolve(), take.audio.resolve(), take.prompt, 25]
                )
        short = all(take.request.num_frames <= 129 for take in takes)
        return [
            "--input", "clips.csv", "--ckpt", str(Path(self.weights, self.model).resolve()), "--sample-n-frames", "129",
            "--seed", str(takes[0].request.seed), "--image-size", "704", "--cfg-scale", str(self.guidance),
            "--infer-steps", str(self.steps), "--use-deepcache", "1", "--flow-shift-eval-video", "5.0", "--save-path", "made",
            "--use-fp8", *(["--infer-min"] if short else []), *(["--cpu-offload"] if self.offload else []),
        ]  # fmt: skip

    def made(self, takes: Sequence[Take], work: Path) -> list[Path]:
        return [work / "made" / f"{take.request.name}_audio.mp4" for take in takes]


@dataclass(frozen=True)
class DrivenByMotion(Baseline, CommandTeacher):
    """arguments: come after the launcher, with {image}, {video} (the teacher's own, whose motion it shall take) and {out}, and the
    places of the teacher `command`: most likely a script of yours that runs the project's steps one after the other.
    """

    about: ClassVar[Card]
    places: ClassVar[tuple[str, ...]] = (*PLACES, "video")
    required: ClassVar[tuple[str, ...]] = ("image", "video", "out")
    launcher: list[str] = list_of("bash")
    model: str = ""  # what the table calls it, "" for the project's name
    licence: str = ""

    @property
    def card(self) -> Card:
        return self.about

    @property
    def lead_s(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return None

    def more(self, take: Take) -> dict[str, object]:
        assert take.request.driving is not None
        return {"video": take.request.driving.resolve()}

    def _check_licence(self) -> None:
        """Nothing is trained on it."""

    def how(self) -> str:
        return (
            f"{self.where}: give `path`, a folder with <clip>.mp4 for each test clip, or `launcher` and `arguments` with "
            f"{{image}}, {{video}} and {{out}} of a script that runs {self.about.url}"
        )


@dataclass(frozen=True)
class LHM(DrivenByMotion):
    where: ClassVar[str] = "evaluate.lhm"
    about: ClassVar[Card] = Card(
        "LHM", "Apache-2.0; weights CC BY-NC 4.0", "no", "weights for research alone", gpu_gb=24,
        url="https://github.com/aigc3d/LHM",
    )  # fmt: skip


@dataclass(frozen=True)
class Persona(DrivenByMotion):
    where: ClassVar[str] = "evaluate.persona"
    about: ClassVar[Card] = Card(
        "PERSONA", "no licence stated", "unknown", "needs SMPL-X, FLAME and DECA, each with its own terms",
        url="https://github.com/mks0601/PERSONA_RELEASE",
    )  # fmt: skip
