"""Takes of a recording: the same words at the same times in another voice, room, microphone and background.

What a network learns from one synthesiser in silence it must know in human voices in kitchens. The sound itself is changed, before
anything hears it, so that every feature changes as it would in life.

S samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avatar_core.audio.backgrounds import babble, coloured_noise, in_room, music, through_microphone
from avatar_core.audio.config import TakeConfig
from avatar_core.audio.conversion import convert, whispered
from avatar_core.audio.level import to_level


def make_take(
    audio: np.ndarray, others: Sequence[np.ndarray], config: TakeConfig, rng: np.random.Generator
) -> np.ndarray:
    """One take (S,) of a recording (S,), brought to level; `others`: recordings whose babble may be behind it."""
    out = np.asarray(audio, np.float64)
    formants = 1 + rng.uniform(-1, 1) * config.formants
    if rng.random() < config.whisper:
        out = whispered(rng, out, formants)
    elif rng.random() < config.voice:
        out = convert(out, 2 ** (rng.uniform(-1, 1) * config.pitch_octaves), formants)
    if rng.random() < config.background:
        kind = rng.choice(3, p=(0.4, 0.4, 0.2)) if others else rng.choice(2)
        snr = rng.uniform(config.least_snr_db, config.most_snr_db)
        if kind == 2:
            behind, snr = babble(rng, others, len(out)), max(snr, 10.0)
        else:
            behind = (coloured_noise, music)[kind](rng, len(out))
        power = (out**2).mean() + 1e-12
        out = out + behind * np.sqrt(power * 10 ** (-snr / 10))
    if rng.random() < config.room:
        out = in_room(rng, out)
    if rng.random() < config.microphone:
        out = through_microphone(rng, out)
    levelled = to_level(out.astype(np.float32))
    return levelled * np.float32(10 ** (config.level_sd_db * rng.standard_normal() / 20))
