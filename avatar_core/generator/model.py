"""The motion generator: diffusion transformer F and refiner with the noise and the calibration that go with them.

Shapes: B windows, T frames at 25 fps, D latents, C audio channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core.audio.backends import AudioConfig
from avatar_core.device import full_precision
from avatar_core.embed.audio_encoder import AudioEncoder
from avatar_core.embed.config import AudioEncoderConfig
from avatar_core.generator.closure import LipClosure
from avatar_core.generator.config import (
    ClosureConfig,
    DiTConfig,
    GeneratorConfig,
    LinearConfig,
    RefinerConfig,
)
from avatar_core.generator.dit import DiT
from avatar_core.generator.linear import LinearReading
from avatar_core.generator.refiner import Refiner
from avatar_core.geometry.filters import gaussian_kernel, low_pass

UNBOUNDED = 1e12  # (m/s)^2; checkpoints hold finite numbers


@dataclass(frozen=True)
class NoiseMaker:
    """Diffusion noise of a generator: velocity and motion (D,), as it has them, on the CPU."""

    velocity: Tensor
    motion: Tensor

    def __call__(self, batch: int, frames: int, rng: torch.Generator) -> Tensor:
        """(B,T,D) of unit variance."""
        out = torch.randn(batch, frames, len(self.velocity), generator=rng, device="cpu")
        speed = self.velocity[self.motion].clamp(0.04, 0.4)
        slow = torch.zeros(batch, frames, len(speed), device="cpu")
        # 90% of the variance at one scale, 10% at a third of it: together they have the wanted speed.
        for share, scale in ((0.9, 0.9**0.5), (0.1, 0.9**0.5 / 3)):
            sigma = scale / speed
            radius = int(np.ceil(3 * float(sigma.max())))
            kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device="cpu") / sigma[:, None]) ** 2)
            kernel = share**0.5 * kernel / kernel.norm(dim=1, keepdim=True)
            white = torch.randn(batch, len(speed), frames + 2 * radius, generator=rng, device="cpu")
            slow += nn.functional.conv1d(white, kernel[:, None], groups=len(speed)).transpose(1, 2)
        out[..., self.motion] = slow
        return out


class Generator(nn.Module):
    """Diffusion transformer and refiner with their noise: what a checkpoint holds.

    Where `config.aligned` is given the audio features of F are its own plus a linear map of those of an encoder that was aligned
    with motion (`hear_with`), which stays as it is.

    The face's diffusion noise is white. Body and hands move slowly, so their noise does too: each latent's is a sum of
    slow fields with the mean speed that the latent has in the training clips, so that it brings no jitter in.

    noise_velocity (D,): mean speed a frame of each latent's noise, in units of its deviation; see train.latent_speed.
    The other five put generated motion right, and calibrate sets them:
    sigma_frames (D,): standard deviation, in frames, of the last low-pass over each body and hand latent; never the face.
    covariance_map (D,D): x @ covariance_map follows the low-pass, on all latents but the face's; it sets the covariance.
    head_scale (D,): metres per unit of each head latent, 0 for the others.
    face_gain (): what the face's latents are stretched by about their mean, since what is guessed from sound is drawn to it.
    head_energy_cap (): the most that an utterance's mean squared slow head velocity may be, (m/s)^2.
    """

    noise_velocity: Tensor
    sigma_frames: Tensor
    covariance_map: Tensor
    face_gain: Tensor
    head_energy_cap: Tensor
    head_scale: Tensor
    motion: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.audio = AudioConfig.parse(config.audio, "generator", "audio").features
        self.dit = DiT(config.dit)
        sizes = (config.dit.dims, config.dit.channels, config.body_dims)
        self.refiner = Refiner(config.refiner, *sizes) if config.refiner.enabled else None
        self.aligned = self.from_aligned = None
        if config.aligned is not None:
            self.aligned = AudioEncoder(config.aligned, config.dit.mels)
            self.from_aligned = nn.Linear(config.aligned.embedding, config.dit.channels, bias=False)
        self.linear = LinearReading(config.dit.mels, config.linear.radius, config.face_dims)
        self.closure = (
            LipClosure(config.dit.mels, config.closure, config.face_dims) if config.closure.enabled else None
        )
        self.register_buffer(
            "noise_velocity", torch.full((config.dit.dims,), 0.1)
        )  # of unit-variance latents, per frame
        self.register_buffer("sigma_frames", torch.ones(config.dit.dims))
        self.register_buffer("covariance_map", torch.eye(config.dit.dims))
        self.register_buffer("face_gain", torch.ones(()))
        self.register_buffer("head_energy_cap", torch.tensor(UNBOUNDED))
        self.register_buffer("head_scale", torch.zeros(config.dit.dims))
        motion = torch.ones(config.dit.dims, dtype=torch.bool)
        motion[self.face] = False
        self.register_buffer("motion", motion, persistent=False)  # body and hand latents
        # frames on either side that a window needs to give exactly what one long pass gives
        filtered = len(gaussian_kernel(config.motion_smooth)) // 2 if config.motion_smooth > 0 else 0
        refined = self.refiner.receptive_field if self.refiner else 0
        heard = config.aligned.receptive_field if config.aligned else 0
        self.context = (
            max(config.dit.receptive_field, refined, heard, config.linear.radius, config.closure.radius)
            + filtered
        )

    def hear_with(self, encoder: AudioEncoder) -> None:
        """Take over the weights of an aligned encoder."""
        assert self.aligned is not None, "a generator without an aligned encoder"
        self.aligned.load_state_dict(encoder.state_dict())

    def encode_audio(self, features: Tensor) -> Tensor:
        """A of F: features of the sound (B,4T,M) -> (B,T,C)."""
        own = self.dit.encode_audio(features)
        if self.aligned is None or self.from_aligned is None:
            return own
        unit = self.aligned(features)
        return own + self.from_aligned(unit * unit.shape[-1] ** 0.5)  # numbers of about 1, as the own ones

    def predict(self, noisy: Tensor, timesteps: Tensor, audio: Tensor) -> Tensor:
        """F: x0 (B,T,D) of noisy motion, before the refiner."""
        return self._low_pass_body(self.dit(noisy, timesteps, audio))

    def prior(self, audio: Tensor) -> Tensor:
        """x0 (B,T,D) read from audio features (B,T,C) alone."""
        return self._low_pass_body(self.dit.prior(audio))

    def refine(self, x0: Tensor, audio: Tensor, time: Tensor) -> Tensor:
        """x0 with face and hands refined (as it is without a refiner); time (B,T) frames since the start."""
        if self.refiner is None:
            return x0
        return x0 + self._low_pass_body(self.refiner(x0, audio, time) - x0)

    def with_linear(self, x0: Tensor, read: Tensor) -> Tensor:
        """x0 (...,D) with the linear reading (...,F) of the same sound mixed into the face, stretched by `face_gain`."""
        share, out = self.config.linear.share, x0.clone()
        out[..., self.face] = self.face_gain * ((1 - share) * x0[..., self.face] + share * read)
        return out

    def drawn_shut(self, x0: Tensor, share: Tensor) -> Tensor:
        """x0 (...,D) with lips drawn shut by `share` (...) where the generator has a closure."""
        if self.closure is None:
            return x0
        out = x0.clone()
        out[..., self.face] = self.closure.shut(x0[..., self.face], share)
        return out

    def _low_pass_body(self, x: Tensor) -> Tensor:
        with full_precision(x.device):
            x = x.float()
            return torch.where(self.motion, low_pass(x, self.config.motion_smooth), x)

    def noise(self, batch: int, frames: int, rng: torch.Generator) -> Tensor:
        """Diffusion noise (B,T,D) of unit variance, on the CPU."""
        return self.noise_maker()(batch, frames, rng)

    def noise_maker(self) -> NoiseMaker:
        """What makes `noise`, read from the device once: for trainings, which need it every step."""
        return NoiseMaker(self.noise_velocity.cpu(), self.motion.cpu())

    @property
    def face(self) -> slice:
        """The latents of the face."""
        return slice(self.config.body_dims, self.config.body_dims + self.config.face_dims)

    def tensors(self) -> tuple[dict[str, Tensor], dict]:
        """What a checkpoint holds: tensors by name, and the config that `from_tensors` needs."""
        described = asdict(self.config)
        if self.config.aligned is None:  # as checkpoints always were
            del described["aligned"]
        if self.closure is None:
            del described["closure"]
        return dict(self.state_dict()), described

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping) -> Generator:
        """The inverse of `tensors`, in eval mode."""
        parts = {"dit": DiTConfig, "refiner": RefinerConfig, "linear": LinearConfig, "closure": ClosureConfig}
        parts |= {"aligned": AudioEncoderConfig} if config.get("aligned") else {}
        config = {"closure": {"enabled": False}, **config}  # a checkpoint from before there was one has none
        values = {**config, **{name: part(**config[name]) for name, part in parts.items()}}
        with torch.device("cpu"):
            model = cls(GeneratorConfig(**values))
        model.load_state_dict(dict(tensors))
        return model.eval()
