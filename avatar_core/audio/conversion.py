"""Voice conversion that keeps the times of the sounds: other pitch, other vocal tract, whisper.

Pitch by overlap-add of similar stretches (WSOLA, Verhelst and Roelands 1993) and resampling; formants by moving the smooth
envelope of the spectrum along the frequency axis, under the harmonics of the voice; a whisper has noise under it instead.

S samples at 16 kHz.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import resample

_FFT, _HOP = 512, 128
_LIFTER = 26  # cepstral coefficients (1.6 ms) of the envelope: below any voice's pitch period
_STEP, _SEARCH = 200, 100  # samples, of the overlap-add


def convert(audio: np.ndarray, pitch: float, formants: float) -> np.ndarray:
    """(S,) with the voice's pitch and its formants multiplied by these factors, at the same times."""
    if abs(pitch - 1) > 1e-3:
        audio = np.asarray(resample(_stretch(audio, pitch), len(audio)))
        formants = formants / pitch  # resampling has moved them along
    return _with_envelope(audio, formants, None)


def whispered(rng: np.random.Generator, audio: np.ndarray, formants: float = 1.0) -> np.ndarray:
    """(S,) without a voice: noise under the same envelope."""
    return _with_envelope(audio, formants, rng)


def _stretch(audio: np.ndarray, factor: float) -> np.ndarray:
    """(S,) -> (about S * factor,): as high as before, but slower."""
    length = 2 * _STEP
    window = np.hanning(length + 1)[:-1]
    total = round(len(audio) * factor)
    source = np.pad(audio, (length, 3 * length))
    out = np.zeros(total + 2 * length)
    natural = length
    for at in range(0, total, _STEP):
        target = length + round((at + _STEP) / factor) - _STEP  # the middles keep their time
        low = max(0, target - _SEARCH)
        region = source[low : low + length + 2 * _SEARCH]
        wanted = source[natural : natural + length]
        place = low + int(np.correlate(region, wanted, "valid").argmax())
        out[at : at + length] += window * source[place : place + length]
        natural = min(place + _STEP, len(source) - length)
    return out[:total]


def _with_envelope(audio: np.ndarray, formants: float, noise: np.random.Generator | None) -> np.ndarray:
    window = np.hanning(_FFT + 1)[:-1]
    padded = np.pad(audio, (_FFT, _FFT + -len(audio) % _HOP))
    spectra = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP] * window)
    size = np.log(np.abs(spectra) + 1e-7)
    cepstra = np.fft.irfft(size)
    cepstra[:, _LIFTER:-_LIFTER] = 0
    envelope = np.fft.rfft(cepstra).real  # (frames,257)
    reads = np.minimum(np.arange(envelope.shape[1]) / formants, envelope.shape[1] - 1)
    left = np.minimum(reads.astype(int), envelope.shape[1] - 2)
    moved = envelope[:, left] + (reads - left) * (envelope[:, left + 1] - envelope[:, left])
    if noise is None:
        spectra = spectra * np.exp(np.clip(moved - envelope, -6, 6))
    else:
        spectra = np.exp(moved) * (
            noise.standard_normal(spectra.shape) + 1j * noise.standard_normal(spectra.shape)
        )
    out, weight = np.zeros(len(padded)), np.zeros(len(padded))
    for number, frame in enumerate(np.fft.irfft(spectra) * window):
        part = slice(number * _HOP, number * _HOP + _FFT)
        out[part] += frame
        weight[part] += window**2
    return (out / np.maximum(weight, 1e-3))[_FFT : _FFT + len(audio)]
