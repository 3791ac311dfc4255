"""Log-mel features at 100 Hz, the generator's only view of the sound.

25 ms Hann windows every 10 ms, frame k centred at (k + 0.5) * 10 ms, so that the four frames 4f..4f+3 lie exactly inside
the picture f at 25 fps. Mel filters average the power (they sum to one), hence full-scale white noise reads about 0 and
the floor ln(1e-7) = -16.1 lies at about -70 dB: fainter noise looks like silence.

S = samples at 16 kHz; K = S // 160 feature frames (4 T for a clip of T pictures); M = 80 mel bands.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from avatar_core.clock import SAMPLE_RATE

HOP = 160
WINDOW = 400
FFT_SIZE = 1024  # zero-padded, so that the narrow low bands each hold a bin
NUM_MELS = 80
LOW_HZ, HIGH_HZ = 40.0, 7800.0
FLOOR = 1e-7
_BLOCK = 4096  # frames worked on at once: an hour of sound needs no more memory than a minute


def hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """O'Shaughnessy's (HTK) mel scale."""
    return 2595.0 * np.log10(1.0 + np.asarray(hz, dtype=np.float64) / 700.0)


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray:
    """Inverse of `hz_to_mel`."""
    return 700.0 * (10.0 ** (np.asarray(mel, dtype=np.float64) / 2595.0) - 1.0)


@lru_cache(maxsize=1)
def _filters() -> np.ndarray:
    """(FFT_SIZE // 2 + 1, M) triangular filters, each summing to one."""
    edges = mel_to_hz(np.linspace(hz_to_mel(LOW_HZ), hz_to_mel(HIGH_HZ), NUM_MELS + 2))
    bins = np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0.0, np.minimum(rising, falling))
    assert (weights.sum(0) > 0).all(), "a mel band without any frequency bin"
    return weights / weights.sum(0)


@lru_cache(maxsize=1)
def _window() -> np.ndarray:
    """(WINDOW,) Hann, scaled so that white noise keeps its variance as power."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    return window / np.sqrt((window**2).sum())


def log_mel(audio: torch.Tensor) -> torch.Tensor:
    """(..., S) float audio -> (..., K, M) float32 ln(power + 1e-7); differentiable, any length (K = S // 160)."""
    frames = audio.shape[-1] // HOP
    if frames == 0:
        return audio.new_zeros((*audio.shape[:-1], 0, NUM_MELS), dtype=torch.float32)
    window = torch.as_tensor(_window(), dtype=torch.float32, device=audio.device)
    filters = torch.as_tensor(_filters(), dtype=torch.float32, device=audio.device)
    edge = (WINDOW - HOP) // 2
    padded = torch.nn.functional.pad(audio[..., : frames * HOP].float(), (edge, edge))
    out = []
    for first in range(0, frames, _BLOCK):
        count = min(_BLOCK, frames - first)
        block = padded[..., first * HOP : (first + count - 1) * HOP + WINDOW].unfold(-1, WINDOW, HOP)
        spectrum = torch.fft.rfft(block * window, n=FFT_SIZE)
        power = spectrum.real.square() + spectrum.imag.square()
        out.append(torch.log(power @ filters + FLOOR))
    return torch.cat(out, dim=-2)


def log_mel_numpy(audio: np.ndarray) -> np.ndarray:
    """Twin of `log_mel` for numpy: (S,) -> (K, M) float32, computed in float64."""
    frames = len(audio) // HOP
    edge = (WINDOW - HOP) // 2
    padded = np.pad(np.asarray(audio[: frames * HOP], dtype=np.float64), edge)
    out = np.empty((frames, NUM_MELS), dtype=np.float32)
    for first in range(0, frames, _BLOCK):
        count = min(_BLOCK, frames - first)
        stretch = padded[first * HOP : (first + count - 1) * HOP + WINDOW]
        block = np.lib.stride_tricks.sliding_window_view(stretch, WINDOW)[::HOP]
        power = np.abs(np.fft.rfft(block * _window(), n=FFT_SIZE)) ** 2
        out[first : first + count] = np.log(power @ _filters() + FLOOR)
    return out
