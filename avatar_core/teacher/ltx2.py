"""Teacher `ltx2`: LTX-2, a video model with sound, whose sound is held to ours while the pictures are denoised.

diffusers' LTX2DFRPipeline with `freeze_audio`: our recording, as latents of the model's own audio autoencoder, stays clean, and the
pictures attend to it. Made at 25 pictures a second, one of the rates that the model was trained at, so nothing is resampled.

Legend: T frames at 25 fps, S samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from avatar_core.clock import FPS, SAMPLES_PER_FRAME
from avatar_core.config import one_of, ranged
from avatar_core.device import Compute
from avatar_core.errors import UserError
from avatar_core.models.card import Card, failures, need_packages, start
from avatar_core.models.files import check_pipeline, find_model, is_local, verify_folder
from avatar_core.models.ltx2 import MODEL, STEP, card_of, check_rate, encode_sound, log_mel
from avatar_core.models.pipeline import DTYPES, OFFLOADS, PACKAGES, load_pipeline
from avatar_core.teacher import ClipRequest
from avatar_core.teacher.programs import PROMPT, noun

if TYPE_CHECKING:
    from torch import Tensor

MOST_S = 20.0  # seconds: longer than this the model was not trained


@dataclass(frozen=True)
class LTX2Teacher:
    """model: a hub id or a local folder, with `revision` or `sha256`; side: px of a square video, and of
    the longer side of a whole body.

    strength: how strictly the first picture is the portrait. Clips of one seed are the same on one machine.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    where: ClassVar[str] = "teacher.ltx2"
    model: str = MODEL
    revision: str = ""
    sha256: str = ""
    side: int = ranged(704, 256, 2048)
    strength: float = ranged(1.0, 0, 1)
    dtype: str = one_of(*DTYPES)
    offload: str = one_of("model", *OFFLOADS)
    prompt: str = PROMPT

    @property
    def card(self) -> Card:
        return card_of(self.model, self.revision, self.sha256)

    def folders(self) -> dict[Path, str]:
        """See `models.card.Published`."""
        return {self._folder(): self.sha256 if is_local(self.model) else ""}

    def lacking(self) -> list[str]:
        """See `models.card.Published`."""
        lines = failures(lambda: need_packages(self.where, "models", *PACKAGES, "av"), self._check_side)
        return lines + failures(lambda: self._check_class(check_pipeline(self._folder())))

    def videos(
        self, requests: Sequence[ClipRequest], folder: Path, compute: Compute, advance: Callable[[], None]
    ) -> None:
        """See `teacher.VideoModel`."""
        from avatar_core.io.video import write_mp4
        from avatar_core.teacher.collect import CRF

        for request in requests:
            if request.speech.duration_s > MOST_S:
                raise UserError(
                    f"{self.where}: expected clips of {MOST_S:g} s at most, found {request.speech.duration_s:.1f} s "
                    f"({request.name}); set speech.max_seconds"
                )
        start(self.where, self, compute)
        model = self._folder()
        if is_local(self.model):
            verify_folder(model, self.sha256)
        pipeline = load_pipeline("LTX2DFRPipeline", model, self.dtype, "", self.offload, compute.device)
        for request in requests:
            frames = self.film(pipeline, request)
            write_mp4(folder / f"{request.name}.mp4", frames, audio=request.speech.audio, crf=CRF)
            advance()

    def film(self, pipeline: Any, request: ClipRequest) -> np.ndarray:
        """(T,H,W,3) uint8 of a request. Raises UserError for pictures without contrast."""
        import torch
        from diffusers.pipelines.ltx2.dfr_layout import resolve_canvas
        from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
        from PIL import Image

        from avatar_core.teacher.picture import framed

        width, height = self.size(request.framing)
        count = 1 + STEP * max(1, -(-(request.num_frames - 1) // STEP))
        canvas = resolve_canvas(count, STEP)[0]
        sound = np.zeros(canvas * SAMPLES_PER_FRAME, np.float32)
        sound[: len(request.speech.audio)] = request.speech.audio
        picture = Image.fromarray(framed(request.portrait, request.framing, width, height))
        made = pipeline(
            prompt=self.prompt.format(person=noun(request)),
            conditions=[LTX2VideoCondition(frames=picture, index=0, strength=self.strength)],
            width=width,
            height=height,
            num_frames=count,
            frame_rate=float(FPS),
            audio_latents=audio_latents(pipeline, torch.from_numpy(sound)),
            freeze_audio=True,
            generate_slots=False,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="np",
        ).frames[0]
        frames = (np.clip(np.nan_to_num(made), 0, 1) * 255).round().astype(np.uint8)[: request.num_frames]
        if len(frames) < request.num_frames or frames.std() < 2:
            raise UserError(
                f"{self.where}: expected {request.num_frames} pictures of {request.name}, found {len(frames)}, or even ones; "
                f"another dtype than {self.dtype} may do"
            )
        return frames

    def size(self, framing: str) -> tuple[int, int]:
        """Width and height in px: square, or 9 by 16 for whole bodies."""
        return (
            (self.side * 9 // 16 // 32 * 32, self.side) if framing == "full_body" else (self.side, self.side)
        )

    def _folder(self) -> Path:
        return find_model(self.model, self.revision, self.sha256, self.where)

    def _check_side(self) -> None:
        if self.side % 32:
            raise UserError(f"{self.where}.side: expected a multiple of 32, found {self.side}")

    def _check_class(self, index: dict[str, Any]) -> None:
        if find_spec("transformers") is not None and not index["_class_name"].startswith("LTX2"):
            raise UserError(f"{self.where}.model: expected a pipeline LTX2..., found {index['_class_name']}")


def audio_latents(pipeline: Any, audio: Tensor) -> Tensor:
    """A recording (S,), a tensor -> latents (1,C,L,M) of the pipeline's audio autoencoder, as the pipeline takes them."""
    vae = pipeline.audio_vae
    rate, hop, bins = (vae.config[name] for name in ("sample_rate", "mel_hop_length", "mel_bins"))
    check_rate(rate, LTX2Teacher.where)
    return encode_sound(vae, log_mel(audio, hop, bins)[None], pipeline._execution_device)
