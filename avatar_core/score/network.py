"""The score teacher: a small video diffusion network over mouth clips, conditioned on speech and a reference picture.

It stands for the large audio-driven video model of the paper: score distillation asks it how eight rendered frames
should change to look like the teacher's videos of this speech. Built from diffusers' blocks over 2x pixel-unshuffled
frames, with a cosine schedule and 10% of the conditions dropped for classifier-free guidance. Every frame's audio enters
by the step embedding of its own residual blocks (that is what ties lips to sounds), all of them by cross-attention.

The network models how frames differ from the reference, with the preconditioning of Karras et al. 2022 (EDM): untrained it
is the best linear denoiser of that difference, and training adds to that. How it is
trained and judged: `score.train`.

Shapes: B clips, F frames (8), H = W pixels (32), A audio channels, C channels. Frames are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict

import torch
from diffusers import DDIMScheduler
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_core.score.clips import AUDIO_CONTEXT
from avatar_core.score.config import ScoreConfig


class ScoreNetwork(nn.Module):
    """add_noise / predict / guidance over video clips (B,F,3,H,W)."""

    mel_mean: Tensor
    mel_std: Tensor
    spread: Tensor
    alphas: Tensor

    def __init__(self, config: ScoreConfig) -> None:
        super().__init__()
        self.config = config
        c, a = config.channels, config.audio_channels
        self.scheduler = DDIMScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="epsilon", clip_sample=False
        )
        self.register_buffer("alphas", self.scheduler.alphas_cumprod.clone(), persistent=False)
        self.register_buffer("mel_mean", torch.zeros(80))
        self.register_buffer("mel_std", torch.ones(80))
        self.register_buffer("spread", torch.tensor(0.2))  # rms difference of frames from the reference
        self.audio = nn.Sequential(
            nn.Conv1d(80, a, 5, padding=2), nn.GELU(), nn.Conv1d(a, a, 6, stride=4, padding=1), nn.GELU(),
            nn.Conv1d(a, a, 5, padding=2), nn.GELU(), nn.Conv1d(a, a, 3, padding=1),
        )  # fmt: skip
        self.no_audio = nn.Parameter(torch.zeros(a))
        self.steps = Timesteps(c[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.step_mlp = TimestepEmbedding(c[0], 2 * a)
        self.audio_mlp = nn.Linear(a, 2 * a)
        self.stem = nn.Conv2d(24, c[0], 3, padding=1)  # noisy frame and reference, 12 channels each
        self.down = nn.ModuleList([_Level(c[max(0, i - 1)], c[i], config, False) for i in range(len(c))])
        self.shrink = nn.ModuleList(
            [Downsample2D(c[i], use_conv=True, out_channels=c[i]) for i in range(len(c) - 1)]
        )
        self.middle = _Level(c[-1], c[-1], config, True)
        self.up = nn.ModuleList([_Level(2 * c[i], c[i], config, False) for i in range(len(c))])
        self.grow = nn.ModuleList(
            [Upsample2D(c[i + 1], use_conv=True, out_channels=c[i]) for i in range(len(c) - 1)]
        )
        self.norm = nn.GroupNorm(8, c[0])
        self.head = nn.Conv2d(c[0], 12, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    @property
    def size(self) -> int:
        """H = W of its clips in pixels."""
        return self.config.size

    @property
    def frames(self) -> int:
        """F, frames of a clip."""
        return self.config.frames

    def reference_frame(self, start: int) -> int:
        """The first of the clip: who it is, whatever the mouth does."""
        return 0

    def encode(self, clips: Tensor) -> Tensor:
        """The clips themselves."""
        return clips

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """alpha(tau), sigma(tau) as (B,1,1,1,1)."""
        bar = self.alphas[timesteps].view(-1, 1, 1, 1, 1)
        return bar.sqrt(), (1 - bar).sqrt()

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy clips alpha clean + sigma noise at timesteps (B,)."""
        alpha, sigma = self.alpha_sigma(timesteps)
        return alpha * clean + sigma * noise

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor, reference: Tensor) -> Tensor:
        """Clean frames (B,F,3,H,W) from audio tokens (B,F,A) and a reference picture (B,3,H,W)."""
        alpha, sigma = self.alpha_sigma(timesteps)
        seen = reference[:, None].expand_as(noisy)
        change = (noisy - alpha * seen) / self.scale(timesteps)
        net = self._net(change, timesteps, tokens, seen)
        return self.linear(noisy, timesteps, reference) + self.spread * sigma / self.scale(timesteps) * net

    def linear(self, noisy: Tensor, timesteps: Tensor, reference: Tensor) -> Tensor:
        """The best denoiser (B,F,3,H,W) that knows only the reference and how far frames spread round it."""
        alpha, _ = self.alpha_sigma(timesteps)
        seen = reference[:, None]
        gain = alpha * self.spread.square() / self.scale(timesteps).square()
        return seen + gain * (noisy - alpha * seen)

    def scale(self, timesteps: Tensor) -> Tensor:
        """Standard deviation (B,1,1,1,1) of noisy frames round the reference."""
        alpha, sigma = self.alpha_sigma(timesteps)
        return (alpha.square() * self.spread.square() + sigma.square()).sqrt()

    def _net(self, change: Tensor, timesteps: Tensor, tokens: Tensor, seen: Tensor) -> Tensor:
        batch, frames = change.shape[:2]
        step = self.step_mlp(self.steps(timesteps).to(change.dtype))[:, None]
        temb = (step + self.audio_mlp(tokens)).flatten(0, 1)
        context = tokens.repeat_interleave(frames, 0)  # every frame may look at the whole clip's sound
        h = F.pixel_unshuffle(torch.cat([change, seen], 2).flatten(0, 1), 2)
        h = self.stem(h)
        skips = []
        for index, level in enumerate(self.down):
            h = level(h, temb, context, frames)
            skips.append(h)
            if index < len(self.shrink):
                h = self.shrink[index](h)
        h = self.middle(h, temb, context, frames)
        for index in reversed(range(len(self.up))):
            h = self.up[index](torch.cat([h, skips[index]], 1), temb, context, frames)
            if index > 0:
                h = self.grow[index - 1](h)
        return F.pixel_shuffle(self.head(F.silu(self.norm(h))), 2).unflatten(0, (batch, frames))

    def encode_audio(self, log_mel: Tensor) -> Tensor:
        """(B,4(F+2*AUDIO_CONTEXT),80) -> tokens (B,F,A)."""
        tokens = self.audio(((log_mel - self.mel_mean) / self.mel_std).transpose(1, 2)).transpose(1, 2)
        return tokens[:, AUDIO_CONTEXT:-AUDIO_CONTEXT]

    def predict(
        self, noisy: Tensor, timesteps: Tensor, log_mel: Tensor, reference: Tensor, guidance: float = 1.0
    ) -> Tensor:
        """Noise eps in noisy (B,F,3,H,W), with classifier-free guidance on the sound when guidance is not 1."""
        tokens = self.encode_audio(log_mel)
        clean = self(noisy, timesteps, tokens, reference)
        if guidance != 1.0:
            free = self(noisy, timesteps, self.no_audio.expand_as(tokens), reference)
            clean = free + guidance * (clean - free)
        alpha, sigma = self.alpha_sigma(timesteps)
        return (noisy - alpha * clean) / sigma

    def denoising_loss(
        self,
        clips: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        log_mel: Tensor,
        reference: Tensor,
        dropped: Tensor | None = None,
    ) -> Tensor:
        """Squared error of the clean clips in the units that F predicts; dropped (B,): clips that go without sound."""
        alpha, sigma = self.alpha_sigma(timesteps)
        tokens = self.encode_audio(log_mel)
        if dropped is not None:
            tokens = torch.where(dropped[:, None, None], self.no_audio, tokens)
        clean = self(alpha * clips + sigma * noise, timesteps, tokens, reference)
        return ((clean - clips) * self.scale(timesteps) / (self.spread * sigma)).square().mean()

    @torch.no_grad()
    def sample(
        self,
        log_mel: Tensor,
        reference: Tensor,
        seed: int = 0,
        steps: int = 20,
        guidance: float = 1.0,
        least: float = 0.3,
    ) -> Tensor:
        """A clip (B,F,3,H,W) of the reference (B,3,H,W) saying log_mel, by DDIM.

        It ends with what is thought to be clean at the diffusion time `least`, of 1: the least that distillation asks about.
        Below, the network has learnt little and would leave grain.
        """
        self.eval()
        frames, size = self.config.frames, reference.shape[-1]
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(len(reference), frames, 3, size, size, generator=generator, device="cpu")
        x = x.to(reference.device)
        with torch.device("cpu"):
            schedule = DDIMScheduler.from_config(self.scheduler.config)
        assert isinstance(schedule, DDIMScheduler)
        schedule.set_timesteps(steps)
        for step in schedule.timesteps:
            eps = self.predict(x, step.to(x.device).expand(len(x)), log_mel, reference, guidance)
            there = schedule.step(eps, int(step), x)
            assert isinstance(there, DDIMSchedulerOutput) and there.pred_original_sample is not None
            x = there.prev_sample
            if step <= 1000 * least:
                return there.pred_original_sample.clamp(-1, 1)
        return x.clamp(-1, 1)

    def tensors(self) -> tuple[dict[str, Tensor], dict]:
        """What a checkpoint holds: tensors by name, and the config that `from_tensors` needs."""
        return dict(self.state_dict()), asdict(self.config)

    def copy(self) -> ScoreNetwork:
        """Another with the same weights, of its own."""
        return deepcopy(self).eval()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping) -> ScoreNetwork:
        """The inverse of `tensors`, in eval mode."""
        with torch.device("cpu"):
            model = cls(ScoreConfig(**config))
        model.load_state_dict(dict(tensors))
        return model.eval()


class _Level(nn.Module):
    """Residual block, then (if attend) attention over audio tokens and over time."""

    def __init__(self, c_in: int, c_out: int, config: ScoreConfig, attend: bool) -> None:
        super().__init__()
        self.block = ResnetBlock2D(
            in_channels=c_in, out_channels=c_out, temb_channels=2 * config.audio_channels, groups=8,
            time_embedding_norm="scale_shift",
        )  # fmt: skip
        self.cross = self.temporal = None
        if attend:
            width = c_out // config.heads
            self.cross = BasicTransformerBlock(
                c_out,
                config.heads,
                width,
                cross_attention_dim=config.audio_channels,
                only_cross_attention=True,
            )
            self.temporal = TransformerTemporalModel(
                config.heads, width, c_out, norm_num_groups=8, double_self_attention=False, positional_embeddings="sinusoidal",
                num_positional_embeddings=32,
            )  # fmt: skip

    def forward(self, h: Tensor, temb: Tensor, context: Tensor, frames: int) -> Tensor:
        h = self.block(h, temb)
        if self.cross is None or self.temporal is None:
            return h
        flat = h.flatten(2).transpose(1, 2)
        h = self.cross(flat, encoder_hidden_states=context).transpose(1, 2).reshape(h.shape)
        return self.temporal(h, num_frames=frames).sample
