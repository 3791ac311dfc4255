"""Audio: sound files (see `avatar_core.io.audio`), log-mel features at 100 Hz, their normalisation and augmentation."""

from avatar_core.audio.augment import AugmentConfig, augment, warp_mel
from avatar_core.audio.features import MelNorm, fit_mel_norm, log_mel, log_mel_numpy
from avatar_core.io.audio import read_audio, write_wav

__all__ = [
    "AugmentConfig",
    "MelNorm",
    "augment",
    "fit_mel_norm",
    "log_mel",
    "log_mel_numpy",
    "read_audio",
    "warp_mel",
    "write_wav",
]
