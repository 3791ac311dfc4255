"""Numbers of the generator: networks, training, sampling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from avatar_core.config import derived, derived_by, ranged, section
from avatar_core.embed.config import AudioEncoderConfig, BatchConfig

if TYPE_CHECKING:
    from avatar_core.audio.backends import AudioConfig
    from avatar_core.embed.codec import MotionCodec


@dataclass(frozen=True)
class DiTConfig:
    channels: int = ranged(128, 16)
    audio_blocks: int = ranged(2, 1)
    motion_blocks: int = ranged(2, 1)
    kernel: int = ranged(7, 1)
    heads: int = ranged(4, 1)
    attention_radius: int = ranged(5)  # frames
    dropout: float = ranged(0.1, 0, 0.9)
    dims: int = derived(64)  # D
    mels: int = derived(80)

    @property
    def receptive_field(self) -> int:
        """Frames on either side that can change an output frame."""
        blocks = (self.audio_blocks + self.motion_blocks) * (self.kernel // 2)
        return 2 + blocks + self.motion_blocks * self.attention_radius  # 2: the stem's 18 mel frames


@dataclass(frozen=True)
class RefinerConfig:
    enabled: bool = True
    channels: int = ranged(96, 16)
    blocks: int = ranged(2, 1)
    heads: int = ranged(4, 1)
    radius: int = ranged(5)  # frames of attention on either side
    kernel: int = ranged(5, 1)
    dropout: float = ranged(0.1, 0, 0.9)


@dataclass(frozen=True)
class LinearConfig:
    """The linear reading of the sound that is mixed into the face; see `linear`."""

    share: float = ranged(0.5, 0, 1)  # of the face; 0 leaves the network alone
    radius: int = ranged(6)  # frames to either side
    ridge: float = ranged(2.0, 1e-6)  # per weighted frame, of features of unit deviation
    silence: float = ranged(
        0.2, 0, 10
    )  # weight of all silence, of that of all clips: a linear map has no other way to keep the lips shut


@dataclass(frozen=True)
class ClosureConfig:
    """What draws the lips shut where the sound has them pressed; see `closure`. Numbers chosen on val (docs/decisions.md)."""

    enabled: bool = True
    radius: int = ranged(2)  # frames to either side that it hears
    decay: float = ranged(0.01, 1e-6)  # of features of unit deviation
    pressed: float = ranged(0.0003)  # m below the rest: what counts as pressed in the fits
    opened: float = ranged(0.0015)  # m above the rest: what counts as open,
    near: int = ranged(3)  # and frames round it that are asked about
    low: float = ranged(0.22, 0, 1)  # probability from which lips are drawn shut
    high: float = ranged(0.45, 0, 1)  # and at which they are shut
    depth: float = ranged(0.001)  # m below the rest: where to


@dataclass(frozen=True)
class GeneratorConfig:
    dit: DiTConfig = section(DiTConfig)
    refiner: RefinerConfig = section(RefinerConfig)
    linear: LinearConfig = section(LinearConfig)
    closure: ClosureConfig = section(ClosureConfig)
    motion_smooth: float = ranged(
        1.5, 0, 25
    )  # frames: F's body and hand outputs are low-passed, they would jitter with the sound
    audio: dict[str, Any] = derived_by(
        lambda: {"backend": "log_mel"}
    )  # the features it hears, with `dit.mels` bands
    aligned: AudioEncoderConfig | None = derived(None)  # of an aligned encoder that it hears besides its own
    body_dims: int = derived(24)  # latents [0, body_dims) are body
    face_dims: int = derived(32)  # then face, then hand

    def sized(self, codec: MotionCodec, audio: AudioConfig) -> GeneratorConfig:
        """Itself with what is not chosen but follows: from the codec's latents and the audio features."""
        return replace(
            self,
            dit=replace(self.dit, dims=codec.dims, mels=audio.features.bands),
            audio=audio.to_dict(),
            body_dims=codec.config.body_dims,
            face_dims=codec.config.face_dims,
        )


@dataclass(frozen=True)
class SampleConfig:
    steps: int = ranged(5, 1, 1000)  # more do not help lips and excite the head
    guidance: float = ranged(1.0, 0, 20)  # 1 = no guidance; above, lips lose accuracy and the head speeds up
    temperature_face: float = ranged(
        0.5, 0, 2
    )  # scale of the initial noise: lips follow the audio, not the noise
    temperature_motion: float = ranged(1.0, 0, 2)  # body and hands keep their full variety
    window: int = ranged(250, 1)  # frames a network call


@dataclass(frozen=True)
class MotionLossConfig(BatchConfig):
    """L_simple in particle space: its batches and the weights of its terms."""

    velocity: float = ranged(1.0)
    aperture: float = ranged(1.0)
    aperture_unit: float = ranged(0.004, 1e-06)  # m
    closed: float = ranged(6.0)  # added to the aperture's weight where the lips are shut
    prior: float = ranged(0.5)  # loss of the audio-only prior inside F
    refiner: float = ranged(1.0)
    drop_audio: float = ranged(0.1, 0, 1)
    pure_noise: float = ranged(
        0.3, 0, 1
    )  # share of windows at the last diffusion step, the one sampling starts from


@dataclass(frozen=True)
class TrainConfig(MotionLossConfig):
    steps: int = ranged(400, 1)
    learning_rate: float = ranged(2e-3, 1e-08, 1)
    weight_decay: float = ranged(0.05)
    clip_norm: float = ranged(1.0)
    ema: float = ranged(0.99, 0, 1)
    checkpoint_every: int = ranged(200, 1)
