"""What sounds beside a voice: coloured noise, made-up music, rooms and microphones, all from a random generator.

S samples at 16 kHz, float64, unit deviation where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avatar_core.clock import SAMPLE_RATE

MODES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))  # semitones of major and minor


def coloured_noise(rng: np.random.Generator, samples: int) -> np.ndarray:
    """(S,) noise between white and brown, sometimes swelling slowly, as fans, streets and rain do."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    tilt = np.maximum(np.arange(len(spectrum)), 20.0) ** -rng.uniform(0.0, 1.0)
    noise = np.fft.irfft(spectrum * tilt, samples)
    if rng.random() < 0.5:
        knots = np.exp(0.5 * rng.standard_normal(2 + samples // SAMPLE_RATE * 2))
        noise = noise * np.interp(np.linspace(0, len(knots) - 1, samples), np.arange(len(knots)), knots)
    return noise / (noise.std() + 1e-12)


def music(rng: np.random.Generator, samples: int) -> np.ndarray:
    """(S,) of a tune over chords, a bass and drums, in a random key, tempo and timbre: nobody sings."""
    beat = 60.0 / rng.uniform(65, 160)
    root, mode = rng.uniform(45, 57), MODES[int(rng.integers(2))]
    out = np.zeros(samples)
    length = samples / SAMPLE_RATE
    sustain, partials = rng.uniform(0.15, 1.5), 2 + rng.integers(9)
    slope = rng.uniform(0.6, 2.2)

    def note(at: float, degree: int, seconds: float, octave: int, loud: float) -> None:
        pitch = root + 12 * octave + 12 * (degree // 7) + mode[degree % 7]
        hz = 440.0 * 2 ** ((pitch - 69) / 12)
        start = int(at * SAMPLE_RATE)
        time = np.arange(min(int(seconds * SAMPLE_RATE), samples - start)) / SAMPLE_RATE
        if not len(time):
            return
        envelope = np.minimum(1, time / 0.01) * np.exp(-time / sustain)
        envelope *= np.minimum(1, (seconds - time) / 0.03).clip(0)
        wave = np.zeros(len(time))
        for k in range(1, partials + 1):
            if k * hz < 7500:
                wave += k**-slope * np.sin(2 * np.pi * k * hz * time + rng.uniform(0, 2 * np.pi))
        out[start : start + len(time)] += loud * envelope * wave

    has_tune, has_chords, has_bass, has_drums = rng.random(4) < (0.8, 0.8, 0.7, 0.6)
    chord = 0
    for number, at in enumerate(np.arange(0, length, beat)):
        if number % 4 == 0:
            chord = int(rng.choice([0, 3, 4, 5]))
        if has_chords and number % 2 == 0:
            for step in (0, 2, 4):
                note(at, chord + step, 2 * beat, 0, 0.4)
        if has_bass:
            note(at, chord, beat, -1, 0.8)
        if has_tune or not (has_chords or has_bass):
            for part in range(1 + rng.integers(3)):
                note(at + part * beat / 3, int(rng.integers(0, 12)), beat * rng.uniform(0.3, 1.5), 1, 0.6)
        if has_drums:
            _drum(out, rng, at, low=number % 2 == 0)
            _drum(out, rng, at + beat / 2, low=False)
    return out / (out.std() + 1e-9)


def _drum(out: np.ndarray, rng: np.random.Generator, at: float, low: bool) -> None:
    start = int(at * SAMPLE_RATE)
    time = np.arange(min(int(0.15 * SAMPLE_RATE), len(out) - start)) / SAMPLE_RATE
    if len(time):
        hit = np.sin(2 * np.pi * 60 * time) * 2 if low else 0.7 * np.diff(rng.standard_normal(len(time) + 1))
        out[start : start + len(time)] += hit * np.exp(-time / (0.06 if low else 0.03))


def babble(rng: np.random.Generator, others: Sequence[np.ndarray], samples: int) -> np.ndarray:
    """(S,) of three to six other recordings at once, each from some moment on and repeated."""
    out = np.zeros(samples)
    for _ in range(3 + rng.integers(4)):
        voice = others[int(rng.integers(len(others)))]
        out += np.resize(np.roll(voice, rng.integers(len(voice))), samples) / (voice.std() + 1e-6)
    return out / (out.std() + 1e-12)


def in_room(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
    """(S,) as a microphone hears it in a room that rings 0.1 to 0.7 s; the direct sound keeps its time."""
    seconds = rng.uniform(0.1, 0.7)  # to -60 dB
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response[: int(rng.uniform(0.002, 0.02) * SAMPLE_RATE)] = 0
    response *= 10 ** (-rng.uniform(0, 15) / 20) / (np.linalg.norm(response) + 1e-12)
    response[0] = 1.0
    size = len(audio) + len(response)
    return np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(response, size), size)[: len(audio)]


def through_microphone(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
    """(S,) with a random equaliser (up to about 10 dB), at times the narrow band, the steps or the overload of a telephone."""
    frequencies = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    octave = np.log2(np.maximum(frequencies, 40) / 40)
    decibels = np.interp(octave, np.linspace(0, 7.7, 7), rng.normal(0, 4.0, 7))
    narrow = rng.random() < 0.3
    low, high = (rng.uniform(150, 350), rng.uniform(3000, 4000)) if narrow else (rng.uniform(20, 120), 8000)
    decibels -= 24 * np.maximum(0, np.log2(low / np.maximum(frequencies, 1)))
    decibels -= 60 * np.maximum(0, np.log2(np.maximum(frequencies, 1) / high))
    out = np.fft.irfft(np.fft.rfft(audio) * 10 ** (decibels / 20), len(audio))
    peak = np.abs(out).max() + 1e-9
    if narrow and rng.random() < 0.5:  # eight bits on a logarithmic scale [G.711]
        code = np.sign(out) * np.log1p(255 * np.abs(out) / peak) / np.log(256)
        code = np.round(code * 127) / 127
        out = np.sign(code) * np.expm1(np.abs(code) * np.log(256)) / 255 * peak
    if rng.random() < 0.15:
        out = np.tanh(out / (0.4 * peak)) * 0.4 * peak
    return out
