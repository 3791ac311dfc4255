"""LTX-2 as a score teacher: pictures and sound as tokens of one denoiser; the sound is ours, clean at every step.

Shapes: B clips, x (B,C,f,h,w) latents of pictures, n = f h w tokens, L latents of sound, M mel bands, S tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from avatar_core.clock import FPS
from avatar_core.models.ltx2 import encode_sound
from avatar_core.score.flow import FlowScore

STEPS = 1000  # of the scale in which the denoiser is told how noisy its tokens are
PROMPTS = ("video", "audio", "mask")  # (2,S,..) each: the prompt, then the negative one


class LTX2Network(FlowScore):
    """transformer, vae, audio_vae: diffusers' LTX2VideoTransformer3DModel, AutoencoderKLLTX2Video, AutoencoderKLLTX2Audio."""

    video: Tensor
    audio: Tensor
    mask: Tensor

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        audio_vae: Any,
        prompts: Mapping[str, Tensor],
        frames: int,
        size: int,
        text_guidance: float,
        about: Mapping[str, Any],
    ) -> None:
        """prompts: of `prompt_tensors`; about: whose the weights are, for the checkpoint."""
        super().__init__(transformer, vae, frames, size, text_guidance)
        self.audio_vae = audio_vae.eval().requires_grad_(False)
        self.about = dict(about)
        for name in PROMPTS:
            self.register_buffer(name, prompts[name])

    def heard(self, log_mel: Tensor) -> Tensor:
        """(B,L,C M/4): one token a picture."""
        latents = encode_sound(self.audio_vae, log_mel, self.video.device).transpose(1, 2).flatten(2)
        mean, std = (getattr(self.audio_vae, f"latents_{name}").to(latents) for name in ("mean", "std"))
        return (latents - mean) / std

    def velocity(
        self, noisy: Tensor, sigma: Tensor, first: Tensor, sound: Tensor, text: bool, hears: bool
    ) -> Tensor:
        """See `FlowScore`. Without the sound: with no attention between pictures and sound."""
        b, _, f, h, w = noisy.shape
        tokens = torch.cat([first, noisy[:, :, 1:]], 2).flatten(2).transpose(1, 2)
        clean = torch.arange(f * h * w, device=noisy.device) < h * w
        step, dtype, row = STEPS * sigma, self.transformer.dtype, slice(0, 1) if text else slice(1, 2)
        video, audio, mask = (
            getattr(self, name)[row].expand(b, *[-1] * (getattr(self, name).ndim - 1)) for name in PROMPTS
        )
        with torch.autocast(noisy.device.type, enabled=False):  # its weights have the type that was asked for
            v = self.transformer(
                hidden_states=tokens.to(dtype),
                audio_hidden_states=sound.to(dtype),
                encoder_hidden_states=video.to(dtype),
                audio_encoder_hidden_states=audio.to(dtype),
                timestep=step[:, None] * ~clean,
                audio_timestep=torch.zeros_like(step),
                sigma=step,
                audio_sigma=torch.zeros_like(step),
                encoder_attention_mask=mask,
                audio_encoder_attention_mask=mask,
                num_frames=f,
                height=h,
                width=w,
                fps=float(FPS),
                audio_num_frames=sound.shape[1],
                isolate_modalities=not hears,
                use_cross_timestep=True,
                video_keyframes_mask=clean.to(dtype).expand(b, -1)[..., None],
                return_dict=False,
            )[0]
        return v.transpose(1, 2).unflatten(2, (f, h, w)).to(noisy.dtype)

    def normalised(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        return (latents - mean) * self.vae.config["scaling_factor"] / std

    def plain(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        return latents * std / self.vae.config["scaling_factor"] + mean

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The prompts, and whose they are; weights stay where they lie."""
        return {name: getattr(self, name) for name in PROMPTS}, dict(self.about)

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(
            getattr(self.vae, f"latents_{n}").view(1, -1, 1, 1, 1).to(latents) for n in ("mean", "std")
        )  # pyright: ignore


@torch.no_grad()
def prompt_tensors(pipeline: Any, prompt: str, negative: str) -> dict[str, Tensor]:
    """What the denoiser of an LTX2Pipeline reads of two prompts, as PROMPTS, on the CPU."""
    positive, kept, other, masked = pipeline.encode_prompt(prompt, negative, True)
    side = getattr(pipeline.tokenizer, "padding_side", "left")
    found = pipeline.connectors(torch.cat([positive, other]), torch.cat([kept, masked]), padding_side=side)
    return {name: value.cpu().contiguous() for name, value in zip(PROMPTS, found, strict=True)}
