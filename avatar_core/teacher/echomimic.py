"""Teacher `echomimic_v2`: EchoMimicV2, half-body pictures with a sequence of hand poses, 24 fps.

    python infer.py --config C --ref_images_dir D --refimg_name P/I.png --audio_dir D --audio_name A.wav --pose_dir D --pose_name N

Its poses are not made from the sound but given: folders of `0.npy, 1.npy, ...` (the repository has some in
assets/halfbody_demo/pose). A clip is as long as the shortest of -L, sound and poses. Known of it: hands are misplaced where the
poses do not lie over the picture's body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from avatar_core.clock import FPS, SAMPLE_RATE
from avatar_core.config import given, ranged
from avatar_core.errors import UserError
from avatar_core.models.card import Card, failures
from avatar_core.teacher.checkouts import CheckoutTeacher
from avatar_core.teacher.programs import TAIL_S, Take

MODEL_FPS = 24


@dataclass(frozen=True)
class EchoMimicV2(CheckoutTeacher):
    """poses: a folder of pose sequences; each clip gets one that is long enough, by its seed. weights: `pretrained_weights`."""

    where: ClassVar[str] = "teacher.echomimic_v2"
    about: ClassVar[Card] = Card(
        "EchoMimicV2", "Apache-2.0", "conditions", "its README says: intended for academic research",
        gpu_gb=16, url="https://github.com/antgroup/echomimic_v2",
    )  # fmt: skip
    script: ClassVar[str] = "infer.py"
    tested: ClassVar[str] = "a312dec05ec7f9b3e0e2c2802e4a1a5d3788cfb3"
    hubs: ClassVar[dict[str, str]] = {
        "": "BadToBest/EchoMimicV2",
        "sd-image-variations-diffusers": "lambdalabs/sd-image-variations-diffusers",
        "sd-vae-ft-mse": "stabilityai/sd-vae-ft-mse",
        "audio_processor": "",
    }
    framings: ClassVar[tuple[str, ...]] = ("waist_up",)
    poses: str = given("a folder of pose sequences, each a folder of 0.npy, 1.npy, ...")
    side: int = ranged(768, 256, 1024)  # px
    steps: int = ranged(30, 1, 200)
    guidance: float = ranged(2.5, 1, 20)
    batch: int = ranged(1, 1, 1)  # the program makes one video a start

    def size(self, framing: str) -> tuple[int, int]:
        return self.side, self.side

    def weight_files(self) -> list[str]:
        networks = ("denoising_unet", "reference_unet", "pose_encoder", "motion_module")
        folders = ("sd-image-variations-diffusers", "sd-vae-ft-mse", "audio_processor/tiny.pt")
        return [*(f"{name}.pth" for name in networks), *folders]

    def lacking(self) -> list[str]:
        return super().lacking() + failures(lambda: sequences(self.poses, self.where))

    def laid_out(self, take: Take) -> None:
        self._pose(take)

    def options(self, takes: Sequence[Take], work: Path) -> list[str]:
        (take,) = takes
        config = work / "infer.yaml"
        # the project's own file, with its folder of weights as ours is named
        written = Path(self.checkout, "configs/prompts/infer.yaml").read_text(encoding="utf-8")
        written = written.replace("./pretrained_weights", str(Path(self.weights).resolve()))
        written = written.replace("./configs/", f"{Path(self.checkout).resolve()}/configs/")
        config.write_text(written, encoding="utf-8")
        poses = self._pose(take)
        return [
            "--config", config.name, "-W", str(self.side), "-H", str(self.side), "-L", str(_frames(take)),
            "--seed", str(take.request.seed), "--cfg", str(self.guidance), "--steps", str(self.steps), "--fps", str(MODEL_FPS),
            "--ref_images_dir", str(work.resolve()), "--refimg_name", f"{take.folder.name}/{take.image.name}",
            "--audio_dir", str(take.folder.resolve()), "--audio_name", take.audio.name,
            "--pose_dir", str(poses.parent.resolve()), "--pose_name", poses.name,
        ]  # fmt: skip

    def made(self, takes: Sequence[Take], work: Path) -> list[Path]:
        found = sorted((work / "outputs").rglob("*_sig.mp4"))
        return [found[0] if found else work / "outputs" / "(none)_sig.mp4"]

    def _pose(self, take: Take) -> Path:
        frames = _frames(take)
        long = [path for path, length in sequences(self.poses, self.where).items() if length >= frames]
        if not long:
            raise UserError(
                f"{self.where}.poses: expected a sequence of {frames} frames for {take.request.name}, found none so long"
            )
        return long[int(np.random.default_rng(take.request.seed).integers(len(long)))]


def _frames(take: Take) -> int:
    seconds = len(take.request.speech.audio) / SAMPLE_RATE
    return min(int(np.ceil((seconds + 1 / FPS) * MODEL_FPS)), int((seconds + TAIL_S) * MODEL_FPS))


@lru_cache(maxsize=4)
def sequences(poses: str, where: str) -> dict[Path, int]:
    """Folders of poses and how many frames without a gap each has, by name. Raises UserError, starting with `where`: none."""
    found = {}
    for folder in sorted(p for p in Path(poses).glob("*") if p.is_dir()) if poses else ():
        names = {p.name for p in folder.glob("*.npy")}
        if length := next(k for k in range(len(names) + 1) if f"{k}.npy" not in names):
            found[folder] = length
    if not found:
        raise UserError(
            f"{where}.poses: expected folders of 0.npy, 1.npy, ..., found none in {poses or '(no path)'}"
        )
    return found
