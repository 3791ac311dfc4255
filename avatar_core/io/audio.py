"""Sound in and out: any common file -> mono float32 at 16 kHz, and 16-bit WAV with stable bytes.

S samples. A clip of T frames at 25 fps has T * 640 samples.
"""

from __future__ import annotations

import io
import os
import struct
import wave
from pathlib import Path

import numpy as np

from avatar_core.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from avatar_core.errors import UserError
from avatar_core.io import ffmpeg
from avatar_core.io.atomic import write_bytes

MAX_SECONDS = 4 * 3600.0


def read_audio(path: str | os.PathLike, *, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Read WAV, FLAC, MP3, OGG, AAC or the sound of an MP4/MKV -> (S,) float32 mono at 16 kHz, about [-1, 1].

    Channels are averaged, other rates resampled. Raises UserError: missing, empty, not sound, cut off, not finite, shorter than
    one video frame (0.04 s), longer than `max_seconds`.
    """
    path = Path(path)
    kind = ffmpeg.demuxer(path, "audio")
    samples = _read_plain_wav(path) if kind == "wav" else None
    if samples is None:
        samples = _decode(path, max_seconds)
    if len(samples) == 0:
        raise UserError(f"{path}: expected sound, found no samples")
    if not np.isfinite(samples).all():
        raise UserError(
            f"{path}: expected finite samples, found NaN or infinity at {_first_bad(samples):.2f} s"
        )
    if len(samples) < SAMPLES_PER_FRAME:
        raise UserError(
            f"{path}: expected at least 0.04 s of sound, found {len(samples) / SAMPLE_RATE:.3f} s"
        )
    if len(samples) > max_seconds * SAMPLE_RATE:
        raise UserError(f"{path}: expected at most {max_seconds:g} s of sound, found more")
    return samples


def _first_bad(samples: np.ndarray) -> float:
    return float(np.argmin(np.isfinite(samples))) / SAMPLE_RATE


def _read_plain_wav(path: Path) -> np.ndarray | None:
    """Check a WAV's sizes; decode it here if it is our own kind (16-bit mono 16 kHz), else return None."""
    fmt: tuple[int, ...] | None = None
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(12)
        while True:
            header = file.read(8)
            if len(header) < 8:
                raise UserError(
                    f"{path}: expected a WAV file with sound, found one cut off before its samples"
                )
            name, length = header[:4], struct.unpack("<I", header[4:])[0]
            if name == b"data":
                break
            body = file.read(length + length % 2)
            if name == b"fmt " and len(body) >= 16:
                fmt = struct.unpack("<HHIIHH", body[:16])
        left = size - file.tell()
        streamed = length in (0, 0xFFFFFFFF) and left > 0  # written to a pipe: the size was not known
        if fmt is None or fmt[1] == 0 or fmt[2] == 0:
            raise UserError(f"{path}: expected a WAV file with a format, found none")
        if length > left and not streamed:
            raise UserError(
                f"{path}: expected {length} bytes of samples as its header says, found {left} (cut off)"
            )
        if fmt[0] != 1 or fmt[1] != 1 or fmt[2] != SAMPLE_RATE or fmt[5] != 16:
            return None
        data = file.read(left if streamed else length)
    return np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2").astype(np.float32) / 32768.0


def _decode(path: Path, max_seconds: float) -> np.ndarray:
    # rematrix_maxval: without it, two channels become their sum over sqrt(2), not their mean
    mono = f"aresample={SAMPLE_RATE}:ochl=mono:osf=flt:rematrix_maxval=1.0"
    process = ffmpeg.decode(
        path, "audio", format="f32le", acodec="pcm_f32le", af=mono, t=max_seconds + 1, threads=1
    )
    try:
        assert process.process.stdout is not None
        data = process.process.stdout.read()
        if process.wait() != 0:
            raise UserError(f"{path}: expected sound that can be decoded, found: {process.message()}")
    finally:
        process.stop()
    return np.frombuffer(data[: len(data) // 4 * 4], dtype="<f4").copy()


def write_wav(path: str | os.PathLike, samples: np.ndarray, rate: int = SAMPLE_RATE) -> None:
    """Write mono float samples as 16-bit WAV, atomically; clipped to [-1, 1]."""
    write_bytes(path, wav_bytes(samples, rate))


def wav_bytes(samples: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    """Mono float samples (S,) -> the bytes of a 16-bit WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(
            np.clip(np.rint(np.asarray(samples) * 32768.0), -32768, 32767).astype("<i2").tobytes()
        )
    return buffer.getvalue()
