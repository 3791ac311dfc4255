"""Sampling motion for speech of any length: DDIM over x0 predictions, step by step, window by window.

Each diffusion step runs the network over windows with context (24 frames by default) and keeps their middles.
The network sees no further, so that is exactly the step of one long pass and there are no seams to blend. The noise is
one field for the whole clip. Only latents (256 bytes a frame) and audio features (512) grow with the length.

Shapes: S samples at 16 kHz, T frames at 25 fps (T = S / 640), D latents, C audio channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from avatar_core.audio.features import log_mel
from avatar_core.errors import UserError
from avatar_core.generator.dit import DiT, DiTConfig
from avatar_core.generator.refiner import Refiner, RefinerConfig
from avatar_core.geometry.filters import gaussian_kernel, low_pass, slow_velocity

SAMPLES_PER_FRAME = 640
TRAIN_STEPS = 1000
UNBOUNDED = 1e12  # (m/s)^2; checkpoints hold finite numbers


@dataclass(frozen=True)
class GeneratorConfig:
    dit: DiTConfig = field(default_factory=DiTConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)
    body_dims: int = 24  # latents [0, body_dims) are body
    face_dims: int = 32  # then face, then hand
    motion_smooth: float = (
        1.5  # frames: F's body and hand outputs are low-passed, they would jitter with the sound
    )


@dataclass(frozen=True)
class SampleConfig:
    steps: int = 5  # more do not help lips and excite the head
    guidance: float = 1.0  # 1 = no guidance; above, lips lose accuracy and the head speeds up
    temperature_face: float = 0.5  # scale of the initial noise: lips follow the audio, not chance
    temperature_motion: float = 1.0  # body and hands keep their full variety
    window: int = 250  # frames a network call


class Generator(nn.Module):
    """Diffusion transformer and refiner with their noise: what a checkpoint holds.

    The face's diffusion noise is white. Body and hands move slowly, so their noise does too: each latent's is a sum of
    slow fields with the mean speed that the latent has in the training clips. Jitter never enters then.

    smooth (D,): frames, standard deviation of the last low-pass over each body and hand latent; never the face.
    mix (D,D): what the low-passed latents are multiplied by then, x @ mix; leaves the face alone.
    lively (): most mean squared slow speed that an utterance's head may have, in latents times unit (D,), 0 where not the
    head (all four: see calibrate).
    """

    speed: Tensor
    smooth: Tensor
    mix: Tensor
    lively: Tensor
    unit: Tensor
    motion: Tensor

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        self.dit = DiT(config.dit)
        self.refiner = Refiner(config.refiner, config.dit.dims, config.dit.channels, config.body_dims)
        self.register_buffer(
            "speed", torch.full((config.dit.dims,), 0.1)
        )  # of unit-variance latents, per frame
        self.register_buffer("smooth", torch.ones(config.dit.dims))
        self.register_buffer("mix", torch.eye(config.dit.dims))
        self.register_buffer("lively", torch.tensor(UNBOUNDED))
        self.register_buffer("unit", torch.zeros(config.dit.dims))
        motion = torch.ones(config.dit.dims, dtype=torch.bool)
        motion[self.face] = False
        self.register_buffer("motion", motion, persistent=False)  # body and hand latents
        # frames on either side that a window needs to give exactly what one long pass gives
        filtered = len(gaussian_kernel(config.motion_smooth)) // 2 if config.motion_smooth > 0 else 0
        self.context = max(config.dit.receptive_field, self.refiner.receptive_field) + filtered

    def predict(self, noisy: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        """F: x0 (B,T,D) of noisy motion, before the refiner."""
        return self._steady(self.dit(noisy, timesteps, audio))

    def prior(self, audio: Tensor) -> Tensor:
        """x0 (B,T,D) read from audio features (B,T,C) alone."""
        return self._steady(self.dit.prior(audio))

    def refine(self, x0: Tensor, audio: Tensor, time: Tensor) -> Tensor:
        """x0 with face and hands refined; time (B,T) frames since the start."""
        return x0 + self._steady(self.refiner(x0, audio, time) - x0)

    def _steady(self, x: Tensor) -> Tensor:
        return torch.where(self.motion, low_pass(x, self.config.motion_smooth), x)

    def noise(self, batch: int, frames: int, generator: torch.Generator) -> Tensor:
        """Diffusion noise (B,T,D) of unit variance."""
        out = torch.randn(batch, frames, len(self.speed), generator=generator)
        speed = self.speed[self.motion].clamp(0.04, 0.4)
        slow = torch.zeros(batch, frames, len(speed))
        # 90% of the variance at one scale, 10% at a third of it: together they have the wanted speed.
        for share, scale in ((0.9, 0.9**0.5), (0.1, 0.9**0.5 / 3)):
            sigma = scale / speed
            radius = int(np.ceil(3 * float(sigma.max())))
            kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma[:, None]) ** 2)
            kernel = share**0.5 * kernel / kernel.norm(dim=1, keepdim=True)
            white = torch.randn(batch, len(speed), frames + 2 * radius, generator=generator)
            slow += nn.functional.conv1d(white, kernel[:, None], groups=len(speed)).transpose(1, 2)
        out[..., self.motion] = slow
        return out

    @property
    def face(self) -> slice:
        return slice(self.config.body_dims, self.config.body_dims + self.config.face_dims)

    def tensors(self) -> tuple[dict[str, Tensor], dict]:
        return dict(self.state_dict()), asdict(self.config)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping) -> Generator:
        values = {**config, "dit": DiTConfig(**config["dit"]), "refiner": RefinerConfig(**config["refiner"])}
        model = cls(GeneratorConfig(**values))
        model.load_state_dict(dict(tensors))
        return model.eval()


def make_scheduler() -> DDIMScheduler:
    """Cosine noise schedule with x0 prediction, shared by training and sampling."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
        timestep_spacing="trailing",
    )


@torch.no_grad()
def generate(
    model: Generator,
    audio: np.ndarray,
    seed: int = 0,
    config: SampleConfig = SampleConfig(),
    progress: Callable[[float, str], None] | None = None,
) -> Tensor:
    """Motion latents (T,D) for audio (S,) at 16 kHz, T = ceil(S / 640). Same seed, same motion."""
    model.eval()
    frames = -(-len(audio) // SAMPLES_PER_FRAME)
    if frames == 0:
        raise UserError("audio: expected at least one sample, found none")
    audio = np.pad(np.asarray(audio, np.float32), (0, frames * SAMPLES_PER_FRAME - len(audio)))

    def encode(a: int, b: int) -> Tensor:
        return audio_features(model, audio[a * SAMPLES_PER_FRAME : b * SAMPLES_PER_FRAME])

    features = _windows(encode, frames, config.window, model.context)
    return sample(model, features, seed, config, progress)


@torch.no_grad()
def sample(
    model: Generator,
    features: Tensor,
    seed: int = 0,
    config: SampleConfig = SampleConfig(),
    progress: Callable[[float, str], None] | None = None,
) -> Tensor:
    """As generate, from audio features (T,C)."""
    scheduler = make_scheduler()
    scheduler.set_timesteps(config.steps)
    frames = len(features)
    x = model.noise(1, frames, torch.Generator().manual_seed(seed))[0]
    x *= torch.where(model.motion, config.temperature_motion, config.temperature_face)
    x0 = x
    for number, step in enumerate(scheduler.timesteps):

        def clean(a: int, b: int, x: Tensor = x, step: Tensor = step) -> Tensor:
            return _clean(model, x[a:b], step, features[a:b], config.guidance)

        x0 = _windows(clean, frames, config.window, model.context)
        x = scheduler.step(x0, int(step), x).prev_sample  # pyright: ignore[reportAttributeAccessIssue]
        if progress:
            progress((number + 1) / config.steps, "sampling")

    def refine(a: int, b: int) -> Tensor:
        return _refined(model, x0[a:b], features[a:b], a)

    x0 = _windows(refine, frames, config.window, model.context)
    for width in model.smooth[model.motion].unique().tolist():
        chosen = model.motion & (model.smooth == width)
        x0[:, chosen] = low_pass(x0[:, chosen], width)
    return calm(torch.where(model.motion, x0 @ model.mix, x0), model.unit, float(model.lively))


def calm(x: Tensor, unit: Tensor, lively: float) -> Tensor:
    """Latents (T,D) with those of unit (D,) > 0 drawn toward their mean as far as their slow energy exceeds `lively`."""
    if len(x) < 4:
        return x
    energy = float((slow_velocity((x * unit).numpy()) ** 2).sum(1).mean())
    gain = min(1.0, (lively / max(energy, 1e-12)) ** 0.5)
    mean = x.mean(0)
    return torch.where(unit > 0, mean + gain * (x - mean), x)


def audio_features(model: Generator, audio: np.ndarray) -> Tensor:
    """Audio (S,) -> features (T,C) of the audio trunk."""
    return model.dit.encode_audio(log_mel(torch.from_numpy(audio))[None])[0]






def _clean(model: Generator, x: Tensor, step: Tensor, features: Tensor, guidance: float) -> Tensor:
    timesteps = step.reshape(1)
    x0 = model.predict(x[None], timesteps, features[None])[0]
    if guidance == 1.0:
        return x0
    blank = model.dit.drop_audio(features[None], torch.ones(1, dtype=torch.bool))
    free = model.predict(x[None], timesteps, blank)[0]
    return free + guidance * (x0 - free)


def _refined(model: Generator, x0: Tensor, features: Tensor, start: int) -> Tensor:
    time = torch.arange(start, start + len(x0))[None]
    return model.refine(x0[None], features[None], time)[0]


def _windows(function: Callable[[int, int], Tensor], frames: int, window: int, context: int) -> Tensor:
    """Concatenate function(a, b) over windows with context, keeping each window's own frames."""
    parts = []
    for start in range(0, frames, window):
        stop = min(start + window, frames)
        a, b = max(0, start - context), min(frames, stop + context)
        parts.append(function(a, b)[start - a : stop - a])
    return torch.cat(parts)
