"""Audio: sound files (see `avatar_core.io.audio`), log-mel features at 100 Hz and their augmentation."""

from avatar_core.audio.augment import AugmentConfig, augment, warp_mel
from avatar_core.audio.features import log_mel, log_mel_numpy
from avatar_core.io.audio import read_audio, write_wav

__all__ = [
    "AugmentConfig",
    "augment",
    "log_mel",
    "log_mel_numpy",
    "read_audio",
    "warp_mel",
    "write_wav",
]
