"""Training and held-out error of the score teacher on mouth clips with their sound.

Shapes: B clips, F frames (8), H = W pixels (32), T frames of a whole clip. Frames are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from avatar_core import ranks
from avatar_core.clock import MEL_PER_FRAME
from avatar_core.device import CPU, Compute
from avatar_core.errors import UserError
from avatar_core.networks.blocks import mel_statistics
from avatar_core.progress import Progress, silent
from avatar_core.score.clips import AUDIO_CONTEXT, ScoreClip, pad_mel, to_signed
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from avatar_core.training.ahead import Ahead
from avatar_core.training.loop import History, Loop, one_thread, run_loop
from avatar_core.training.state import fingerprint_of

STATISTICS_CLIPS = 100  # at least, where there are as many, for the normalisation of sound and pictures


def train_score(
    clips: Sequence[ScoreClip],
    config: ScoreConfig,
    checkpoint_dir: Path | None = None,
    progress: Progress = silent,
    compute: Compute = CPU,
) -> tuple[ScoreNetwork, History]:
    """Train on random runs of F frames; the reference is another frame of the same clip. Returns model and losses.

    Raises UserError where clips are not config.size pixels wide, or none has config.frames frames.
    """
    torch.manual_seed(config.seed)
    rng = torch.Generator().manual_seed(config.seed + 1)
    with torch.device("cpu"):
        model = ScoreNetwork(config)
    data, every = _prepare(clips, config), max(1, len(clips) // STATISTICS_CLIPS)
    mean, std = mel_statistics(c.log_mel for c in clips[::every])
    model.mel_mean.copy_(mean)
    model.mel_std.copy_(std)
    model.spread.copy_(_spread(data[:: max(1, len(data) // STATISTICS_CLIPS)]))
    model.to(compute.device)

    def draw(rng: torch.Generator) -> tuple[Tensor, ...]:
        clips = _varied(*_draw(data, config, rng), rng)
        return (*clips, *_draw_noise(clips[0].shape, config.drop, rng))

    def losses() -> dict[str, Tensor]:
        with ranks.share(*drawn()) as part, compute.autocast():
            frames, log_mel, reference, timesteps, noise, dropped = compute.put(*part)
            return {"loss": model.denoising_loss(frames, timesteps, noise, log_mel, reference, dropped)}

    with one_thread(), Ahead(draw, rng, compute.ahead) as drawn:
        history = run_loop(
            Loop(
                "score", config.steps, config.learning_rate, config.ema, config.checkpoint_every, floor=0.05
            ),
            model,
            compute.adamw(model.parameters(), lr=config.learning_rate, weight_decay=0.01),
            rng,
            losses,
            fingerprint=fingerprint_of(
                config, mean.numpy(), std.numpy(), arrays=(c.frames[0] for c in clips)
            ),
            checkpoint_dir=checkpoint_dir,
            progress=progress,
        )
    return model, history


@torch.no_grad()
def evaluate_score(
    model: ScoreNetwork, clips: Sequence[ScoreClip], seed: int = 0, rounds: int = 32
) -> dict[str, float]:
    """Held-out error of the denoised clips with their own sound, another clip's, and none, over the middle of the window.

    denoise_*: mean square error, all rounds together, as a share of what `linear` leaves, at steps 400 to 950: 1 has learnt
    nothing. (A mean of shares would be those of clips that hardly move.)
    """
    generator = torch.Generator().manual_seed(seed)
    data = _prepare(clips, model.config)
    middle = slice(model.config.size // 4, -(model.config.size // 4))
    sums: dict[str, float] = dict.fromkeys(("linear", "matched", "mismatched", "no_audio"), 0.0)
    for _ in range(rounds):
        drawn = _draw(data, model.config, generator)
        noise = torch.randn(drawn[0].shape, generator=generator, device="cpu")
        frames, log_mel, reference, noise = (value.to(model.spread.device) for value in (*drawn, noise))
        timesteps = torch.linspace(400, 950, len(frames), device=frames.device).long()
        noisy = model.add_noise(frames, noise, timesteps)
        alpha, sigma = model.alpha_sigma(timesteps)

        def error(clean: Tensor, frames: Tensor = frames) -> Tensor:
            return (clean - frames)[..., middle, middle].square().mean()

        sums["linear"] += float(error(model.linear(noisy, timesteps, reference)))
        for name, sound, guidance in (
            ("matched", log_mel, 1.0),
            ("mismatched", log_mel.roll(1, 0), 1.0),
            ("no_audio", log_mel, 0.0),
        ):
            eps = model.predict(noisy, timesteps, sound, reference, guidance)
            sums[name] += float(error((noisy - sigma * eps) / alpha))
    linear = sums.pop("linear")
    return {f"denoise_{name}": value / linear for name, value in sums.items()}


def _draw(
    data: Sequence[ScoreClip], config: ScoreConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """frames (B,F,3,H,W) in [-1,1], log_mel (B,4(F+2 context),80), reference (B,3,H,W)."""
    frames, mels, references = [], [], []
    first = int(torch.randint(len(data), (1,), generator=generator, device="cpu"))
    for number in range(config.batch):
        # consecutive clips: no clip twice in a batch (where there are enough), so rolled sound is mismatched
        clip = data[(first + number) % len(data)]
        total = len(clip.frames)
        start = int(torch.randint(total - config.frames + 1, (1,), generator=generator, device="cpu"))
        frames.append(to_signed(torch.from_numpy(clip.frames[start : start + config.frames])))
        mels.append(
            pad_mel(clip.log_mel)[
                MEL_PER_FRAME * start : MEL_PER_FRAME * (start + config.frames + 2 * AUDIO_CONTEXT)
            ]
        )
        other = int(torch.randint(total, (1,), generator=generator, device="cpu"))
        references.append(to_signed(torch.from_numpy(clip.frames[other])))
    return torch.stack(frames), torch.stack(mels), torch.stack(references)


def _prepare(clips: Sequence[ScoreClip], config: ScoreConfig) -> list[ScoreClip]:
    """The clips that are long enough."""
    for clip in clips:
        if tuple(clip.frames.shape[1:]) != (config.size, config.size, 3):
            raise UserError(f"score: expected crops of {config.size} px, found {clip.frames.shape[1:]}")
    data = [clip for clip in clips if len(clip.frames) >= config.frames]
    if not data:
        raise UserError(f"score: expected clips of {config.frames} frames or more, found none")
    return data


def _spread(data: Sequence[ScoreClip]) -> Tensor:
    """Root mean square difference between two frames of a clip, in the units of frames in [-1, 1]."""
    spreads = []
    for clip in data:
        frames = to_signed(torch.from_numpy(clip.frames[:: max(1, len(clip.frames) // 12)]))
        spreads.append(2 * frames.var(0, correction=0).mean())
    return torch.stack(spreads).mean().sqrt().clamp_min(0.02)


def _varied(
    frames: Tensor, log_mel: Tensor, reference: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirrored and recoloured clips: a handful of people must not be all the faces there are."""
    count = len(frames)
    gain = 1 + 0.8 * (torch.rand(count, 3, 1, 1, generator=rng, device="cpu") - 0.5)
    bias = 0.8 * (torch.rand(count, 3, 1, 1, generator=rng, device="cpu") - 0.5)
    mirrored = (torch.rand(count, generator=rng, device="cpu") < 0.5).view(-1, 1, 1, 1)
    frames, reference = gain[:, None] * frames + bias[:, None], gain * reference + bias
    frames = torch.where(mirrored[:, None], frames.flip(-1), frames)
    return frames, log_mel, torch.where(mirrored, reference.flip(-1), reference)


def _draw_noise(shape: torch.Size, drop: float, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Diffusion steps (B,), noise (B,F,3,H,W), and which clips go without sound (B,)."""
    # Steps from 100 on, and more of the late ones: that is where the sound says what the noise hides.
    share = torch.rand(shape[0], generator=rng, device="cpu")
    timesteps = (1000 * (0.01 + 0.99 * share).sqrt()).long().clamp_max(999)
    noise = torch.randn(shape, generator=rng, device="cpu")
    return timesteps, noise, torch.rand(shape[0], generator=rng, device="cpu") < drop
