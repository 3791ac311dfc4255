"""Sampling motion for speech of any length: DDIM over x0 predictions, step by step, window by window.

Each diffusion step runs the network over windows with context (24 frames by default) and keeps their middles.
The network sees no further, so that is exactly the step of one long pass and there are no seams to blend. The noise is
one field for the whole clip. Only latents (256 bytes a frame) and encoded audio (640) grow with the length.

Shapes: S samples at 16 kHz, T frames at 25 fps (T = S / 640), D latents, F of the face, C audio channels, M features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from avatar_core.clock import SAMPLES_PER_FRAME
from avatar_core.errors import UserError
from avatar_core.generator.config import SampleConfig
from avatar_core.generator.model import Generator
from avatar_core.geometry.filters import low_pass, slow_velocity
from avatar_core.networks.diffusion import make_scheduler
from avatar_core.progress import Progress, silent

HEARING_WINDOWS = (
    6  # windows of sound heard at once: the ear reaches 9 s to either side, which every piece hears again
)


@torch.no_grad()
def generate(
    model: Generator,
    audio: np.ndarray,
    seed: int = 0,
    config: SampleConfig = SampleConfig(),
    progress: Progress = silent,
) -> Tensor:
    """Motion latents (T,D) for audio (S,) at 16 kHz, T = ceil(S / 640), on the model's device. Same seed, same motion."""
    model.eval()
    frames = -(-len(audio) // SAMPLES_PER_FRAME)
    if frames == 0:
        raise UserError("audio: expected at least one sample, found none")
    audio = np.pad(np.asarray(audio, np.float32), (0, frames * SAMPLES_PER_FRAME - len(audio)))
    audio = model.audio.prepare(audio)

    def encode(a: int, b: int) -> Tensor:
        piece = torch.from_numpy(audio[a * SAMPLES_PER_FRAME : b * SAMPLES_PER_FRAME])
        return encode_audio(model, model.audio.hear(piece.to(model.motion.device)))

    heard_at_once = HEARING_WINDOWS * config.window
    features = _windows(encode, frames, heard_at_once, model.context + model.audio.context)
    return sample(model, features, seed, config, progress)


@torch.no_grad()
def sample(
    model: Generator,
    features: Tensor,
    seed: int = 0,
    config: SampleConfig = SampleConfig(),
    progress: Progress = silent,
) -> Tensor:
    """As generate, from encoded audio (T,C+F+1). Locked by test_windows_are_exactly_one_long_pass."""
    face = model.config.face_dims
    features, read, pressed = features.split([features.shape[1] - face - 1, face, 1], 1)
    scheduler = make_scheduler()
    scheduler.set_timesteps(config.steps)
    frames = len(features)
    x = model.noise(1, frames, torch.Generator().manual_seed(seed))[0].to(features.device)
    x *= torch.where(model.motion, config.temperature_motion, config.temperature_face)
    x0 = x
    for number, step in enumerate(scheduler.timesteps):

        def clean(a: int, b: int, x: Tensor = x, step: Tensor = step) -> Tensor:
            return _clean(model, x[a:b], step, features[a:b], config.guidance)

        x0 = _windows(clean, frames, config.window, model.context)
        x = scheduler.step(x0, int(step), x).prev_sample  # pyright: ignore[reportAttributeAccessIssue]
        progress(number + 1, config.steps, "sampling")

    def refine(a: int, b: int) -> Tensor:
        return _refined(model, x0[a:b], features[a:b], a)

    x0 = model.with_linear(_windows(refine, frames, config.window, model.context), read)
    x0 = model.drawn_shut(x0, pressed[:, 0])
    for sigma in model.sigma_frames[model.motion].unique().tolist():
        chosen = model.motion & (model.sigma_frames == sigma)
        x0[:, chosen] = low_pass(x0[:, chosen], sigma)
    return cap_energy(
        torch.where(model.motion, x0 @ model.covariance_map, x0),
        model.head_scale,
        float(model.head_energy_cap),
    )


def cap_energy(x: Tensor, scale: Tensor, cap: float) -> Tensor:
    """Latents (T,D); those with scale (D,) > 0 are drawn to their mean until their slow energy is `cap` or less.

    scale: physical units per latent; cap: mean square of the scaled latents' slow velocity, summed over them.
    Locked by test_the_cap_bounds_the_head_and_nothing_else.
    """
    if len(x) < 4:
        return x
    energy = float((slow_velocity((x * scale).cpu().numpy()) ** 2).sum(1).mean())
    gain = min(1.0, (cap / max(energy, 1e-12)) ** 0.5)
    mean = x.mean(0)
    return torch.where(scale > 0, mean + gain * (x - mean), x)


def encode_audio(model: Generator, heard: Tensor) -> Tensor:
    """Audio features (4T,M) -> (T,C+F+1): what the audio trunk makes of them, the linear reading, how far lips are drawn shut."""
    heard = heard[None]
    own, read = model.encode_audio(heard)[0], model.linear(heard)[0]
    pressed = model.closure(heard)[0] if model.closure is not None else own.new_zeros(len(own))
    return torch.cat([own, read, pressed[:, None]], 1)


def _clean(model: Generator, x: Tensor, step: Tensor, features: Tensor, guidance: float) -> Tensor:
    timesteps = step.reshape(1).to(x.device)
    x0 = model.predict(x[None], timesteps, features[None])[0]
    if guidance == 1.0:
        return x0
    blank = model.dit.drop_audio(features[None], torch.ones(1, dtype=torch.bool, device=x.device))
    free = model.predict(x[None], timesteps, blank)[0]
    return free + guidance * (x0 - free)


def _refined(model: Generator, x0: Tensor, features: Tensor, start: int) -> Tensor:
    time = torch.arange(start, start + len(x0), device=x0.device)[None]
    return model.refine(x0[None], features[None], time)[0]


def _windows(function: Callable[[int, int], Tensor], frames: int, window: int, context: int) -> Tensor:
    """Concatenate function(a, b) over windows with context, keeping each window's own frames."""
    parts = []
    for start in range(0, frames, window):
        stop = min(start + window, frames)
        a, b = max(0, start - context), min(frames, stop + context)
        parts.append(function(a, b)[start - a : stop - a])
    return torch.cat(parts)
