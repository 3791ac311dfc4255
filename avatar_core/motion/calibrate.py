"""How much generated body and hand motion is low-passed: as much as gives it the energy of the fitted motion.

A network that regresses motion from sound makes heads follow every syllable, two to three times as lively as people are. What
is too lively differs from latent to latent, so each has its own filter, chosen once after training on the training clips.

Shapes: T frames, D latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from avatar_core.metrics.motion import slow_energy
from avatar_core.motion.codec import MotionCodec
from avatar_core.motion.sampler import Generator, SampleConfig, low_pass, sample
from avatar_core.motion.train import MotionClip

WIDTHS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)  # frames, standard deviation of the Gaussian filter
MOST_CLIPS = 24
LEAST_FRAMES = 30


@torch.no_grad()
def calibrate_smoothing(
    generator: Generator, clips: Sequence[MotionClip], codec: MotionCodec, config: SampleConfig, seed: int
) -> None:
    """Set `generator.smooth`: per latent the width of WIDTHS whose energy below 3 Hz is nearest to the clips' own.

    Medians over the clips that show the latent (a fit that lost somebody must not set the pace); latents that no clip shows
    get the least width. Face latents are not filtered and are left alone.
    """
    long = [c for c in clips if len(c.x) >= LEAST_FRAMES]
    some = [long[k] for k in np.unique(np.linspace(0, len(long) - 1, min(MOST_CLIPS, len(long))).astype(int))]
    generator.eval()
    generator.smooth.fill_(0.0)
    wanted, made, seen = [], [], []
    for clip in some:
        features = generator.dit.encode_audio(_tensor(clip.log_mel)[None])[0]
        x = sample(generator, features, seed, replace(config, guidance=1.0))
        wanted.append(_energies(_tensor(clip.x)))
        made.append(np.stack([_energies(low_pass(x, width)) for width in WIDTHS]))
        seen.append(codec.shown(clip.valid).numpy())
    generator.smooth.fill_(WIDTHS[0])
    for k in torch.nonzero(generator.motion).flatten().tolist():
        rows = [n for n, shown in enumerate(seen) if shown[k]]
        if rows:
            target = np.median([wanted[n][k] for n in rows])
            energy = np.median([made[n][:, k] for n in rows], axis=0)
            generator.smooth[k] = WIDTHS[int(np.abs(np.log((energy + 1e-12) / (target + 1e-12))).argmin())]


def _energies(x: Tensor) -> np.ndarray:
    return np.array([slow_energy(column[:, None]) for column in x.T.numpy()])


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))
