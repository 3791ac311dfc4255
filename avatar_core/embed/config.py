"""Numbers of the motion code: batches, codec, and the embedding shared with sound."""

from __future__ import annotations

from dataclasses import dataclass

from avatar_core.config import derived, list_of, ranged


@dataclass(frozen=True)
class BatchConfig:
    """Windows of a training step. face, head, body, hand: weights of the regions' particles in a loss over the batch."""

    batch: int = ranged(16, 1)
    window: int = ranged(64, 8)  # frames
    edge: int = ranged(4)  # frames of held edges around a clip, so that onsets are seen at any place
    face: float = ranged(1.0)
    head: float = ranged(0.3)
    body: float = ranged(0.3)
    hand: float = ranged(0.15)
    silence: float = ranged(0.06, 0, 1)  # share of windows
    seed: int = derived(0)


@dataclass(frozen=True)
class CodecConfig:
    body_dims: int = ranged(24, 2, 512)  # with head_dims of them for the head
    head_dims: int = ranged(8, 1, 512)
    face_dims: int = ranged(32, 1, 512)
    hand_dims: int = ranged(8, 1, 512)
    extra_dims: int = ranged(16, 0, 512)  # components only the residual decoder reaches
    lips_weight: float = ranged(2.0)
    lips_radius: float = ranged(0.03, 0.001)  # m, fall-off of the lip weight
    depth_weight: float = ranged(0.5)  # of y, which one camera sees worst, in face and head
    balance: float = ranged(
        0.01
    )  # m: body particles that move more count less, so arms do not drown the trunk
    channels: list[str] = list_of("rotation", "color")  # what the decoder gives besides offsets
    ridge: float = ranged(0.1)
    max_frames: int = ranged(1200, 16)  # per region, subsampled evenly
    body_per_stature: bool = True  # body and hand offsets scale with stature / 1.7 m
    residual_hidden: int = ranged(128, 1)
    residual_steps: int = ranged(300)
    seed: int = derived(0)


@dataclass(frozen=True)
class AlignedConfig:
    """The paper's form, which is not the default (docs/paper.md has the comparison)."""

    enabled: bool = False  # L_sim shapes E_X, and the generator hears the aligned encoder besides its own
    reconstruction: float = ranged(
        10.0
    )  # weight of what E_X and its decoder lose of the motion, against L_sim


@dataclass(frozen=True)
class AudioEncoderConfig:
    """Sizes of the aligned encoder that a generator hears, as in ContrastiveConfig."""

    embedding: int
    channels: int
    blocks: int
    kernel: int

    @property
    def receptive_field(self) -> int:
        """Frames on either side that can change an output frame."""
        return 2 + self.blocks * (self.kernel // 2)  # 2: the stem's 18 mel frames


@dataclass(frozen=True)
class ContrastiveConfig:
    embedding: int = ranged(48, 2)
    audio_channels: int = ranged(128, 1)
    audio_blocks: int = ranged(2, 1)
    kernel: int = ranged(7, 1)
    dropout: float = ranged(0.1, 0, 0.9)
    motion_channels: int = ranged(96, 1)
    motion_blocks: int = ranged(2, 1)
    patch: int = ranged(8, 1)  # frames
    stride: int = ranged(4, 1)
    frame_weight: float = ranged(1.0)
    patch_weight: float = ranged(1.0)
    frame_step: int = ranged(
        4, 1
    )  # every so many frames take part in the frame loss: neighbours are not negatives
    steps: int = ranged(200)
    batch: int = ranged(16, 1)
    window: int = ranged(48, 8)
    learning_rate: float = ranged(2e-3, 1e-08, 1)
    ema: float = ranged(0.98, 0, 1)
    checkpoint_every: int = ranged(100, 1)
    dims: int = derived(64)  # D
    mels: int = derived(80)
    seed: int = derived(0)
