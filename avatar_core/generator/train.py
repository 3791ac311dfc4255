"""Training the generator (diffusion transformer and refiner together) on latent motion clips.

The loss is the diffusion loss on x0 in particle space (each clip only over what it shows), the same on velocities, and
on the lip aperture. A share of the windows is silence or faint noise with shut lips as the target: few clips hold enough of it
for the mouth to learn to stay shut. Deterministic with one thread: stopping and resuming at a checkpoint gives
the same bytes as not stopping.

Shapes: B windows, W frames a window, D latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avatar_core import ranks
from avatar_core.audio.backends import AudioFeatures
from avatar_core.audio.mel import CLEAN
from avatar_core.device import CPU, Compute
from avatar_core.embed.audio_encoder import AudioEncoder
from avatar_core.embed.batches import Batches, LatentClip, some_clips
from avatar_core.embed.codec import MotionCodec
from avatar_core.generator.closure import fit_closure
from avatar_core.generator.config import GeneratorConfig, MotionLossConfig, TrainConfig
from avatar_core.generator.linear import fit_linear
from avatar_core.generator.model import Generator, NoiseMaker
from avatar_core.networks.diffusion import TRAIN_STEPS, add_noise
from avatar_core.progress import Progress, silent
from avatar_core.training.ahead import Ahead
from avatar_core.training.loop import History, Loop, one_thread, run_loop
from avatar_core.training.state import fingerprint_of

SHUT = 8.0  # per squared aperture_unit: at half a unit's opening, 2 mm, lips count as shut by an eighth


class MotionLoss:
    """Particle-space loss of predicted latents, with velocity and lip aperture terms."""

    def __init__(
        self, batches: Batches, codec: MotionCodec, config: MotionLossConfig, compute: Compute = CPU
    ) -> None:
        self.config = config
        self.loss_metrics, self.has_lips, self.latent_masks = compute.put(
            batches.loss_metrics, batches.has_lips, batches.latent_masks
        )
        row, bias = codec.aperture_row()
        self.aperture_row = (row / config.aperture_unit).detach().to(compute.device)
        self.aperture_rest = float(bias.detach()) / config.aperture_unit
        self.face = codec.slices["face"]

    def __call__(self, predicted: Tensor, target: Tensor, weight: Tensor, visibility_id: Tensor) -> Tensor:
        error = predicted - target
        spatial = error @ self.loss_metrics[visibility_id].transpose(1, 2)
        loss = (spatial.square().sum(-1) * weight).mean()
        both = torch.minimum(weight[:, 1:], weight[:, :-1])
        loss = loss + self.config.velocity * (spatial.diff(dim=1).square().sum(-1) * both).mean()
        lips = (error[..., self.face] @ self.aperture_row) * self.has_lips[visibility_id][:, None]
        # A closure is as short as it is plain to see: without more weight a doubtful one is left half open.
        aperture = target[..., self.face] @ self.aperture_row + self.aperture_rest
        shut = 1 + self.config.closed * torch.exp(-aperture.clamp_min(0).square() * SHUT)
        return loss + self.config.aperture * (lips.square() * shut * weight).mean()


def train_generator(
    clips: Sequence[LatentClip],
    codec: MotionCodec,
    config: TrainConfig = TrainConfig(),
    model_config: GeneratorConfig = GeneratorConfig(),
    audio: AudioFeatures = CLEAN,
    checkpoint_dir: Path | None = None,
    progress: Progress = silent,
    compute: Compute = CPU,
    encoder: AudioEncoder | None = None,
) -> tuple[Generator, History]:
    """Train from scratch, or resume from checkpoint_dir. Returns the averaged model and the losses of every step.

    encoder: the aligned one that the model is to hear, where `model_config.aligned` has its sizes.
    """
    torch.manual_seed(config.seed)
    rng = torch.Generator().manual_seed(config.seed + 1)
    batches = Batches(clips, codec, config, audio)
    loss_of = MotionLoss(batches, codec, config, compute)
    with torch.device("cpu"):
        model = Generator(model_config)
    if encoder is not None:
        model.hear_with(encoder)
    model.dit.trunk.fit_normalisation(c.audio for c in some_clips(clips))
    model.noise_velocity.copy_(latent_speed(clips, codec))
    noise = model.noise_maker()
    model.to(compute.device)
    with one_thread():
        fit_linear(
            model.linear, clips, batches.silence, codec.neutral(), codec.slices["face"], model_config.linear
        )
        if model.closure is not None:
            fit_closure(model.closure, clips, codec)

    def draw(rng: torch.Generator) -> tuple[Tensor, ...]:
        return draw_windows(batches, audio, noise, config, rng)

    def losses() -> dict[str, Tensor]:
        with ranks.share(*drawn()) as part:
            return {"loss": diffusion_loss(model, loss_of, compute.put(*part), config, compute)}

    with one_thread(), Ahead(draw, rng, compute.ahead) as drawn:
        history = run_loop(
            Loop(
                "generator", config.steps, config.learning_rate, config.ema, config.checkpoint_every,
                clip_norm=config.clip_norm,
            ),
            model,
            compute.adamw(
                model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
            ),
            rng,
            losses,
            fingerprint=fingerprint_of(config, model.config, arrays=(c.x for c in clips)),
            checkpoint_dir=checkpoint_dir,
            progress=progress,
        )  # fmt: skip
    return model, history


def draw_windows(
    batches: Batches,
    audio: AudioFeatures,
    noise: NoiseMaker,
    config: MotionLossConfig,
    rng: torch.Generator,
) -> tuple[Tensor, ...]:
    """All that a step of L_simple draws, on the CPU: what `Batches.draw` gives, diffusion steps (B,), noise (B,W,D), which windows
    go without sound (B,), first frames (B,1)."""
    mel, x, weight, visibility_id, first = batches.draw(rng)
    mel = audio.augment(mel, rng)
    batch, frames = x.shape[:2]
    timesteps = torch.randint(0, TRAIN_STEPS, (batch,), generator=rng, device="cpu")
    pure = torch.rand(batch, generator=rng, device="cpu") < config.pure_noise
    timesteps = torch.where(pure, TRAIN_STEPS - 1, timesteps)
    noises = noise(batch, frames, rng)
    dropped = torch.rand(batch, generator=rng, device="cpu") < config.drop_audio
    return mel, x, weight, visibility_id, timesteps, noises, dropped, first


def diffusion_loss(
    model: Generator,
    loss_of: MotionLoss,
    drawn: tuple[Tensor, ...],
    config: MotionLossConfig,
    compute: Compute = CPU,
) -> Tensor:
    """L_simple of F, of its audio prior and of the refiner on one batch of `draw_windows`.

    Equation: L_simple = E |W (x0 - F(x_tau | A, tau))|^2, W as `MotionCodec.loss_metric` gives it. Locked by
    test_hidden_regions_give_no_loss, test_learns_lips_from_sound.
    """
    mel, x, weight, visibility_id, timesteps, noise, dropped, first = drawn
    # What a clip does not show is unknown at every step, as it is to the sampler at the first: plain noise.
    noisy = torch.where(loss_of.latent_masks[visibility_id][:, None], add_noise(x, noise, timesteps), noise)
    with compute.autocast():
        features = model.encode_audio(mel)
        x0 = model.predict(noisy, timesteps, model.dit.drop_audio(features, dropped))
        time = first + torch.arange(x.shape[1], device=first.device)
        refined = model.refine(x0.detach(), features, time)
        prior = model.prior(features)
    loss = loss_of(x0, x, weight, visibility_id)
    loss = loss + config.prior * loss_of(prior, x, weight, visibility_id)
    if model.refiner is None:
        return loss
    return loss + config.refiner * loss_of(refined, x, weight * ~dropped[:, None], visibility_id)


def latent_speed(clips: Sequence[LatentClip], codec: MotionCodec) -> Tensor:
    """(D,) mean speed of every latent per frame, in units of its deviation, over the clips that show it.

    Read from steps of four frames, so that the jitter of a noisy fit does not count; 0.1 where no clip shows it.
    Locked by test_speed_of_the_latents_is_read_from_clips_that_show_them.
    """
    moved, spread, count = (np.zeros(codec.dims) for _ in range(3))
    for clip in clips:
        x = np.asarray(clip.x, np.float64)
        if len(x) > 4:
            known = codec.latent_mask(clip.visible).numpy() * float(len(x))
            moved += known * ((x[4:] - x[:-4]) ** 2).mean(0)
            spread += known * (x**2).mean(0)
            count += known
    speed = np.sqrt(moved / np.maximum(spread, 1e-9)) / 4
    return torch.from_numpy(np.where(count > 0, speed, 0.1)).float()
