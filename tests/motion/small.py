"""The smallest codec and generator that still learn, for tests of motion."""

from avatar_core.audio.mel import LogMel
from avatar_core.embed.config import CodecConfig, ContrastiveConfig
from avatar_core.generator.config import DiTConfig, GeneratorConfig, RefinerConfig

CODEC = CodecConfig(body_dims=8, head_dims=3, face_dims=6, hand_dims=2, extra_dims=2, residual_steps=0)
EMBED = ContrastiveConfig(
    dims=16,
    embedding=16,
    audio_channels=24,
    motion_channels=24,
    steps=60,
    batch=8,
    window=40,
    learning_rate=5e-3,
)
MODEL = GeneratorConfig(
    DiTConfig(dims=16, channels=32, heads=2), RefinerConfig(channels=16, heads=2), body_dims=8, face_dims=6
)


class Heard(LogMel):
    """Log-mel with another augmentation."""

    def __init__(self, change):
        super().__init__()
        object.__setattr__(self, "change", change)

    def augment(self, features, rng):
        return self.change(features, rng)
