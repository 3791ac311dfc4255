"""Teacher `ltx2`: LTX-2, a video model with sound, whose sound is held to ours while the pictures are denoised.

diffusers' LTX2DFRPipeline with `freeze_audio`: our recording, as latents of the model's own audio autoencoder, stays clean, and the
pictures attend to it. Made at 25 pictures a second, one of the rates that the model was trained at, so nothing is resampled.

Legend: T frames at 25 fps, S samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from avatar_core.clock import FPS, SAMPLES_PER_FRAME
from avatar_core.config import one_of, ranged
from avatar_core.device import Compute
from avatar_core.errors import UserError
from avatar_core.models.card import start
from avatar_core.models.ltx2 import STEP, LTX2Model, check_rate, encode_sound, log_mel
from avatar_core.models.pipeline import DTYPES, OFFLOADS, load_pipeline
from avatar_core.teacher import ClipRequest
from avatar_core.teacher.programs import PROMPT, noun

if TYPE_CHECKING:
    from torch import Tensor

MOST_S = 20.0  # seconds: longer than this the model was not trained


@dataclass(frozen=True)
class LTX2Teacher(LTX2Model):
    """side: px of a square video, and of the longer side of a whole body.

    strength: how strictly the first picture is the portrait. Clips of one seed are the same on one machine.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    where: ClassVar[str] = "teacher.ltx2"
    side: int = ranged(704, 256, 2048)
    strength: float = ranged(1.0, 0, 1)
    dtype: str = one_of(*DTYPES)
    offload: str = one_of("model", *OFFLOADS)
    prompt: str = PROMPT

    def check_sizes(self) -> None:
        if self.side % 32:
            raise UserError(f"{self.where}.side: expected a multiple of 32, found {self.side}")

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
        folder_of_model = self.checked_folder()
        pipeline = load_pipeline(
            "LTX2DFRPipeline", folder_of_model, self.dtype, "", self.offload, compute.device
        )
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


def audio_latents(pipeline: Any, audio: Tensor) -> Tensor:
    """A recording (S,), a tensor -> latents (1,C,L,M) of the pipeline's audio autoencoder, as the pipeline takes them."""
    vae = pipeline.audio_vae
    rate, hop, bins = (vae.config[name] for name in ("sample_rate", "mel_hop_length", "mel_bins"))
    check_rate(rate, LTX2Teacher.where)
    return encode_sound(vae, log_mel(audio, hop, bins)[None], pipeline._execution_device)
