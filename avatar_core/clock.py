"""The one clock of the project: pictures at 25 fps, sound at 16 kHz, log-mel frames at 100 Hz.

Other rates are resampled where files are read.
"""

from __future__ import annotations

import numpy as np

FPS = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
MEL_RATE = 100
MEL_PER_FRAME = MEL_RATE // FPS


def pad_to_frames(samples: np.ndarray) -> np.ndarray:
    """Sound (S,) -> (640 * ceil(S / 640),), zeros at the end, so that picture and sound end together."""
    missing = -len(samples) % SAMPLES_PER_FRAME
    return np.pad(samples, (0, missing)) if missing else samples
