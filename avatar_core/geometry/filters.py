"""Filters over time that training, sampling and metrics share.

Legend: T frames, K channels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt
from torch import Tensor, nn

CUTOFF_HZ = 3.0


def slow_velocity(positions: NDArray, fps: float = 25.0, cutoff: float = CUTOFF_HZ) -> NDArray[np.float64]:
    """Positions (T,...) -> velocities (T-1,...) below `cutoff` Hz, unit/s; T >= 4.

    Locked by test_jitter_raises_acceleration_but_not_slow_energy.
    """
    x = np.asarray(positions, np.float64)
    if len(x) < 4:
        raise ValueError(f"motion: expected at least 4 frames, found {len(x)}")
    sos = butter(4, cutoff, fs=fps, output="sos")
    return np.diff(sosfiltfilt(sos, x, axis=0, padlen=min(len(x) - 1, 18)), axis=0) * fps


def low_pass(x: Tensor, sigma: float) -> Tensor:
    """Gaussian low-pass in time of x (...,T,K), edges held; sigma in frames, 0 leaves x alone.

    Locked by test_low_pass_keeps_slow_motion_and_length.
    """
    if sigma <= 0 or x.shape[-2] < 2:
        return x
    kernel = gaussian_kernel(sigma, x.device)
    rows = x.transpose(-1, -2).reshape(-1, 1, x.shape[-2])
    rows = nn.functional.pad(rows, (len(kernel) // 2, len(kernel) // 2), mode="replicate")
    rows = nn.functional.conv1d(rows, (kernel / kernel.sum())[None, None])
    return rows.view(*x.shape[:-2], x.shape[-1], x.shape[-2]).transpose(-1, -2)


def gaussian_kernel(sigma: float, device: torch.device | str = "cpu") -> Tensor:
    """Weights (2 radius + 1,) of a Gaussian of standard deviation `sigma` frames, largest 1, cut at three deviations.

    Locked by test_low_pass_keeps_slow_motion_and_length.
    """
    radius = int(np.ceil(3 * sigma))
    return torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=device) / sigma) ** 2)
