"""Score teachers that are latent video models trained by flow matching, in the terms of the paper's score distillation.

    x_t = (1 - t) x + t eps        what the model is shown; alpha = 1 - t, sigma = t
    v   = eps - x                  what it says, the velocity
    eps = x_t + (1 - t) v          what score distillation asks; clean x = x_t - t v

x are the latents of the model's autoencoder, through which gradients reach the frames. Guidance acts on the velocity, so on eps and
x alike: v + (text - 1) (v - v without the prompt) + (sound - 1) (v - v without the sound). The first latent is one picture; it is
the reference, clean, and its velocity is known.

Legend: B clips, F frames, H = W pixels, x (B,C,f,h,w) latents, M mel bands.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core.clock import MEL_PER_FRAME
from avatar_core.score.clips import AUDIO_CONTEXT, ScoreClip, pad_mel, to_signed


class FlowScore(nn.Module):
    """See `score.ScoreTeacher`. transformer: the denoiser, the only part that may learn; vae: diffusers' autoencoder of videos.

    frames, size: of its clips; text_guidance: 1 for none.
    """

    transformer: Any
    vae: Any

    def __init__(self, transformer: Any, vae: Any, frames: int, size: int, text_guidance: float) -> None:
        super().__init__()
        self.transformer, self.vae = transformer, vae
        self.frames, self.size, self.text_guidance = frames, size, text_guidance
        self.eval()
        for part in self.children():
            part.requires_grad_(False)

    @abstractmethod
    def heard(self, log_mel: Tensor) -> Tensor:
        """What the denoiser hears of log-mel (B,4F,M), prepared once for all its calls."""

    @abstractmethod
    def velocity(
        self, noisy: Tensor, sigma: Tensor, first: Tensor, sound: Tensor, text: bool, hears: bool
    ) -> Tensor:
        """v (B,C,f,h,w) of x_t at sigma (B,), whose first latent is `first` (B,C,1,h,w), clean.

        text: with the prompt rather than the negative one; hears: with the sound `heard` rather than without.
        """

    @abstractmethod
    def normalised(self, latents: Tensor) -> Tensor:
        """What the autoencoder gives, as the denoiser takes it; `plain` is the inverse."""

    @abstractmethod
    def plain(self, latents: Tensor) -> Tensor: ...

    @abstractmethod
    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """1 - t, t of steps 0..999 as (B,1,1,1,1); t is never 0, and 1 at the last."""
        sigma = ((timesteps.float() + 1) / 1000).view(-1, 1, 1, 1, 1)
        return 1 - sigma, sigma

    def reference_frame(self, start: int) -> int:
        """The first of the frames that it is asked about."""
        return start

    def encode(self, clips: Tensor) -> Tensor:
        """Frames (B,F,3,H,W) -> x, with gradients."""
        video = clips.transpose(1, 2).to(self.vae.dtype)
        return self.normalised(self.vae.encode(video).latent_dist.mode()).to(clips.dtype)

    def predict(
        self, noisy: Tensor, timesteps: Tensor, log_mel: Tensor, reference: Tensor, guidance: float = 1.0
    ) -> Tensor:
        """eps in x_t, guided by the prompt (`text_guidance`) and by the sound (guidance)."""
        alpha, _ = self.alpha_sigma(timesteps)
        v = self.guided(noisy, timesteps, log_mel, reference, self.text_guidance, guidance)
        return noisy + alpha * v

    def guided(
        self, noisy: Tensor, timesteps: Tensor, log_mel: Tensor, reference: Tensor, text: float, sound: float
    ) -> Tensor:
        """v with both guidances; of the first latent, that which leads to the reference."""
        _, sigma = self.alpha_sigma(timesteps)
        first, heard = self.encode(reference[:, None]), self.heard(self._middle(log_mel))
        v = full = self.velocity(noisy, sigma.flatten(), first, heard, True, True)
        if text != 1:
            v = v + (text - 1) * (full - self.velocity(noisy, sigma.flatten(), first, heard, False, True))
        if sound != 1:
            v = v + (sound - 1) * (full - self.velocity(noisy, sigma.flatten(), first, heard, True, False))
        return torch.cat([(noisy[:, :, :1] - first) / sigma, v[:, :, 1:]], 2)

    def denoising_loss(
        self, clips: Tensor, timesteps: Tensor, noise: Tensor, log_mel: Tensor, reference: Tensor
    ) -> Tensor:
        """Flow matching's: the squared error of v, of all latents but the first. clips: x, from `encode`."""
        alpha, sigma = self.alpha_sigma(timesteps)
        v = self.guided(alpha * clips + sigma * noise, timesteps, log_mel, reference, 1.0, 1.0)
        return (v - (noise - clips))[:, :, 1:].square().mean()

    @torch.no_grad()
    def sample(
        self, log_mel: Tensor, reference: Tensor, seed: int = 0, steps: int = 20, guidance: float = 1.0
    ) -> Tensor:
        """Clips (B,F,3,H,W) that begin with the reference, by Euler's steps."""
        blank = reference[:, None].expand(-1, self.frames, -1, -1, -1)
        shape = self.encode(blank).shape
        rng = torch.Generator().manual_seed(seed)
        x = torch.randn(shape, generator=rng, device="cpu").to(reference)
        times = torch.linspace(999, -1, steps + 1, device=reference.device)
        for now, then in zip(times[:-1], times[1:], strict=True):
            now = now.expand(len(x))
            v = self.guided(x, now, log_mel, reference, self.text_guidance, guidance)
            x = x + ((then - now) / 1000).view(-1, 1, 1, 1, 1) * v
        return self.decode(x).clamp(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """x -> frames (B,F,3,H,W)."""
        video = self.vae.decode(self.plain(latents).to(self.vae.dtype), return_dict=False)[0]
        return video.transpose(1, 2).to(latents.dtype)

    def copy(self) -> Self:
        """Another whose denoiser is its own and may learn; the rest is shared."""
        other = deepcopy(self, {id(part): part for part in self.children() if part is not self.transformer})
        other.transformer.requires_grad_(True)
        return other

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Of the denoiser."""
        return self.transformer.parameters(recurse)

    def _middle(self, log_mel: Tensor) -> Tensor:
        edge = MEL_PER_FRAME * AUDIO_CONTEXT
        return log_mel[:, edge : edge + MEL_PER_FRAME * self.frames]


@torch.no_grad()
def evaluate_flow(
    teacher: FlowScore, clips: Sequence[ScoreClip], seed: int = 0, rounds: int = 4
) -> dict[str, float | None]:
    """Squared error of v with the clip's own sound, another's, and none, as a share of v's own square, at t of .4 to .95.

    None where there are not two clips of `frames` frames.
    """
    rng = torch.Generator().manual_seed(seed)
    device = next(teacher.parameters()).device
    long_enough = [clip for clip in clips if len(clip.frames) >= teacher.frames]
    sums: dict[str, list[float]] = {"denoise_matched": [], "denoise_mismatched": [], "denoise_no_audio": []}
    for number in range(rounds if len(long_enough) > 1 else 0):
        clip, other = (long_enough[(number + k) % len(long_enough)] for k in (0, 1))
        start, elsewhere = (
            int(torch.randint(len(c.frames) - teacher.frames + 1, (1,), generator=rng, device="cpu"))
            for c in (clip, other)
        )
        window = np.ascontiguousarray(clip.frames[start : start + teacher.frames])
        shown = to_signed(torch.from_numpy(window))[None].to(device)
        x = teacher.encode(shown)
        noise = torch.randn(x.shape, generator=rng, device="cpu").to(device)
        timesteps = torch.tensor([400 + 550 * number // max(1, rounds - 1)], device=device)
        alpha, sigma = teacher.alpha_sigma(timesteps)
        noisy, wanted = alpha * x + sigma * noise, (noise - x)[:, :, 1:]
        own, foreign = window_mel(clip, start, teacher.frames), window_mel(other, elsewhere, teacher.frames)
        for name, mel, share in (("matched", own, 1.0), ("mismatched", foreign, 1.0), ("no_audio", own, 0.0)):
            v = teacher.guided(noisy, timesteps, mel.to(device), shown[:, 0], 1.0, share)[:, :, 1:]
            sums[f"denoise_{name}"].append(float((v - wanted).square().mean() / wanted.square().mean()))
    return {name: float(np.mean(values)) if values else None for name, values in sums.items()}


def window_mel(clip: ScoreClip, start: int, frames: int) -> Tensor:
    """(1,4(F+2 AUDIO_CONTEXT),M) round the frames from `start` on."""
    return pad_mel(clip.log_mel)[
        None, MEL_PER_FRAME * start : MEL_PER_FRAME * (start + frames + 2 * AUDIO_CONTEXT)
    ]
