"""Wan2.2-S2V as a score teacher: one clip of the model, whose reference picture is our first; no poses, no clip before it.

So its makers' program makes the first clip of a video: the denoiser hears, for every picture after the reference, all layers of a
wav2vec2 at 16 a second, or zeros. Shapes: B clips, F frames at 25 a second, x (B,16,f,h,w) latents of 1 + 4 (f - 1) pictures at 16
a second, S tokens of a prompt, A layers of the listener, D its width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from avatar_core.clock import FPS
from avatar_core.score.clips import AUDIO_CONTEXT
from avatar_core.score.flow import FlowScore

RATE = 16  # pictures a second that it was trained on
HEARD, FEATURES = (
    50,
    30,
)  # a second: what the listener gives, what the makers' code makes of it before it chooses
STEPS = 1000
PROMPT_TOKENS = 512


class WanS2VNetwork(FlowScore):
    """transformer: diffsynth's WanS2VModel; vae: diffusers' AutoencoderKLWan; listener: transformers' Wav2Vec2Model."""

    text: Tensor

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        listener: Any,
        prompts: Mapping[str, Tensor],
        frames: int,
        size: int,
        text_guidance: float,
        checkpointing: bool,
        about: Mapping[str, Any],
    ) -> None:
        """prompts: of `prompt_tensors`; about: whose the weights are, for the checkpoint."""
        super().__init__(transformer, vae, frames, size, text_guidance)
        self.listener = listener.eval().requires_grad_(False)
        self.about = dict(about)
        self.register_buffer("text", prompts["text"])
        if (
            checkpointing
        ):  # not by the model's own switch: what it computes again is another block's (diffsynth 2.1.12)
            transformer.blocks = nn.ModuleList(_Recomputed(block) for block in transformer.blocks)

    def encode(self, clips: Tensor) -> Tensor:
        """Frames (B,F,3,H,W) at 25 a second -> x of those nearest to 16 a second, with gradients."""
        return super().encode(clips[:, shown(clips.shape[1])])

    def decode(self, latents: Tensor) -> Tensor:
        """x -> frames (B,F,3,H,W) at 25 a second, each the nearest picture."""
        pictures = super().decode(latents)
        nearest = [min((RATE * k + FPS // 2) // FPS, pictures.shape[1] - 1) for k in range(self.frames)]
        return pictures[:, nearest]

    def heard(self, log_mel: Tensor) -> Tensor:
        """Samples (B,4(F+2 AUDIO_CONTEXT),160) -> (B,A,D,4(f-1)), one for every picture after the first."""
        dtype = self.listener.dtype
        with torch.no_grad(), torch.autocast(log_mel.device.type, enabled=False):
            layers = self.listener(log_mel.flatten(1).to(dtype), output_hidden_states=True).hidden_states
        features = torch.stack(layers, 1).float().flatten(0, 1).transpose(1, 2)
        count = int(features.shape[-1] / HEARD * FEATURES)
        features = F.interpolate(features, size=count, mode="linear", align_corners=True)
        times = [FEATURES * (AUDIO_CONTEXT + k) / FPS for k in shown(self.frames)[1:]]
        chosen = features[..., [min(round(t), count - 1) for t in times]]
        return chosen.unflatten(0, (len(log_mel), len(layers)))

    def velocity(
        self, noisy: Tensor, sigma: Tensor, first: Tensor, sound: Tensor, text: bool, hears: bool
    ) -> Tensor:
        """See `FlowScore`. One clip after the other: the model takes no more. Without the sound: zeros for all it hears."""
        tokens = torch.cat([first, noisy[:, :, 1:]], 2)
        sound = sound if hears else torch.zeros_like(sound)
        context, dtype = self.text[:1] if text else self.text[1:], next(self.transformer.parameters()).dtype
        half = dtype in (
            torch.bfloat16,
            torch.float16,
        )  # noise levels are told in single precision, as its makers do
        exact = torch.float32 if half else dtype
        with torch.autocast(noisy.device.type, dtype=dtype if half else None, enabled=half):
            v = [
                self.transformer(
                    latents=tokens[k : k + 1].to(dtype),
                    timestep=STEPS * sigma[k : k + 1].to(exact),
                    context=context.to(dtype),
                    audio_input=sound[k : k + 1].to(dtype),
                    motion_latents=torch.zeros_like(first[k : k + 1], dtype=dtype),  # dropped, but asked for
                    pose_cond=None,
                )
                for k in range(len(noisy))
            ]
        return torch.cat(v).to(noisy.dtype)

    def normalised(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def plain(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        return latents * std + mean

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The prompts, and whose they are; weights stay where they lie."""
        return {"text": self.text}, dict(self.about)

    def _middle(self, log_mel: Tensor) -> Tensor:
        """All of it: the listener hears a little more than is shown."""
        return log_mel

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(self.vae.config[f"latents_{name}"]).view(1, -1, 1, 1, 1).to(latents)
            for name in ("mean", "std")
        )
        return mean, std


class _Recomputed(nn.Module):
    """A block that keeps nothing but its input for the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *values: object) -> Tensor:
        return checkpoint(self.block, *values, use_reentrant=False)  # pyright: ignore[reportReturnType]


def shown(frames: int) -> list[int]:
    """Which of F frames at 25 a second are shown: 1 + 4 n, each the nearest to one of 16 a second."""
    return [(FPS * k + RATE // 2) // RATE for k in range(1 + 4 * ((frames - 1) * RATE // (4 * FPS)))]


@torch.no_grad()
def prompt_tensors(pipeline: Any, prompt: str, negative: str) -> dict[str, Tensor]:
    """`text` (2,S,D): what the denoiser reads of two prompts, of a WanPipeline, on the CPU."""
    both = pipeline.encode_prompt(prompt, negative, True, max_sequence_length=PROMPT_TOKENS)
    return {"text": torch.cat(both).cpu().contiguous()}
