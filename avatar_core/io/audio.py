"""Sound in and out: any common file -> mono float32 at 16 kHz, and 16-bit WAV with stable bytes.

S samples. A clip of T frames at 25 fps has T * 640 samples. Time is the file's: sound that starts after the pictures, or after the
file's zero, has silence before it.
"""

from __future__ import annotations

import io
import os
import struct
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from avatar_core.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from avatar_core.errors import UserError, warn
from avatar_core.io import ffmpeg
from avatar_core.io.atomic import write_bytes
from avatar_core.io.kinds import check_is_file, kind_of

MAX_SECONDS = 4 * 3600.0
WHAT = "a recording or a video with sound"
STREAMED = 0x7FFF0000  # programs that write a WAV into a pipe put 0, 0x7ffff000, 0x7fffffff, 0xffffffff ... for its size
OPPOSITE = 0.1  # channels whose mean has less than this share of their power cancel each other
CHUNK = 1 << 20


@dataclass(frozen=True)
class Soundtrack:
    """The sound of a user's file as it came, for a video's sound. channel: the one to take of two that cancel, else None.

    seconds: from the file's zero on; silence follows when the file ends earlier.
    """

    path: Path
    channel: int | None
    seconds: float


def read_audio(path: str | os.PathLike, *, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Read any sound file, or the first sound of a video -> (S,) float32 mono at 16 kHz, about [-1, 1].

    Channels are averaged (the louder one is taken, with a warning, when they cancel each other), other rates resampled. A
    compressed recording that breaks off is read as far as it goes, with a warning. Raises UserError: missing, empty, not sound, a
    video without sound, a WAV that is cut off, not finite, shorter than one video frame (0.04 s), longer than `max_seconds`.
    """
    return read_soundtrack(path, max_seconds=max_seconds)[0]


def read_soundtrack(
    path: str | os.PathLike, *, max_seconds: float = MAX_SECONDS
) -> tuple[np.ndarray, Soundtrack]:
    """As `read_audio`, and the sound as it came, to be put into a video."""
    path = Path(path)
    check_is_file(path, WHAT)
    kind, channel = kind_of(path), None
    samples = _read_plain_wav(path) if kind is not None and kind.demuxer == "wav" else None
    if samples is None:
        samples, channel = _decode(path, max_seconds)
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
    return samples, Soundtrack(path, channel, len(samples) / SAMPLE_RATE)


def _first_bad(samples: np.ndarray) -> float:
    return float(np.argmin(np.isfinite(samples))) / SAMPLE_RATE


def _read_plain_wav(path: Path) -> np.ndarray | None:
    """Check a WAV's sizes; decode it here if it is our own kind (16-bit mono 16 kHz), else return None."""
    fmt: tuple[int, ...] | None = None
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return None  # RF64: sizes beyond 4 GB, elsewhere in the file
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
            body = file.read(min(length + length % 2, size))
            if name == b"fmt " and len(body) >= 16:
                fmt = struct.unpack("<HHIIHH", body[:16])
        left = size - file.tell()
        # written to a pipe: the size was not known
        streamed = left > 0 and (length == 0 or (length > left and length >= STREAMED))
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


def filters(source: ffmpeg.Source, rate: int, channel: int | None) -> str:
    """ffmpeg's filters from a file's sound to samples at `rate` from the file's zero on: gaps and a late start become silence."""
    one = f"pan=mono|c0=c{channel}," if channel is not None else ""
    return f"{one}asetpts=PTS-{source.start_s:.6f}/TB,aresample={rate}:async=1:first_pts=0"


def _decode(path: Path, max_seconds: float) -> tuple[np.ndarray, int | None]:
    """(samples (S,), the channel that was taken of two that cancel, or None)."""
    source = ffmpeg.probe(path, WHAT)
    if not source.audios:
        raise UserError(f"{path}: expected {WHAT}, found a video without sound")
    samples, power, complaints = _mix(source, max_seconds, None)
    channel = None
    if len(power) == 2 and np.mean(np.square(samples)) < OPPOSITE * np.mean(power):
        channel = int(np.argmax(power))
        warn(
            f"{path}: its two channels cancel each other (opposite phase); the {('left', 'right')[channel]} one is used"
        )
        samples, _, _ = _mix(source, max_seconds, channel)
    seconds = len(samples) / SAMPLE_RATE
    if seconds <= max_seconds and (reason := _breaks_off(source, seconds, complaints)):
        warn(f"{path}: cut off or damaged ({reason}); going on with the {seconds:.2f} s that can be read")
    return samples, channel


def _mix(
    source: ffmpeg.Source, max_seconds: float, channel: int | None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(the mean of the channels (S,), the mean power of each channel, ffmpeg's complaints)."""
    # more than two channels are mixed down by ffmpeg's rules, which know that speech is in the centre
    layout = "aformat=channel_layouts=mono|stereo"
    process = source.decode(
        source.audios[0],
        format="wav",
        acodec="pcm_f32le",
        af=f"{filters(source, SAMPLE_RATE, channel)}:osf=flt:rematrix_maxval=1.0,{layout}",
        t=max_seconds + 1,
        threads=1,
    )
    try:
        pipe = process.process.stdout
        assert pipe is not None
        channels = _wav_channels(pipe)
        means, power, count = [], np.zeros(max(channels, 1)), 0
        while channels and (data := pipe.read(CHUNK * 4 * channels)):
            block = np.frombuffer(data[: len(data) // (4 * channels) * 4 * channels], "<f4").reshape(
                -1, channels
            )
            means.append(block.mean(1) if channels > 1 else block[:, 0].copy())
            power += np.square(block, dtype=np.float64).sum(0)
            count += len(block)
        if process.wait() != 0:
            raise UserError(f"{source.path}: expected sound that can be decoded, found: {process.message()}")
        samples = np.concatenate(means) if means else np.zeros(0, np.float32)
        return samples, power / max(count, 1), process.messages()
    finally:
        process.stop()


def _wav_channels(pipe: IO[bytes]) -> int:
    """Read the header of a WAV from a pipe up to its samples; its number of channels, 0 when there is none."""
    pipe.read(12)
    channels = 0
    while len(header := pipe.read(8)) == 8 and header[:4] != b"data":
        body = pipe.read(struct.unpack("<I", header[4:])[0])
        if header[:4] == b"fmt ":
            channels = struct.unpack("<H", body[2:4])[0]
    return channels


def _breaks_off(source: ffmpeg.Source, seconds: float, complaints: list[str]) -> str:
    """Why a recording seems not whole, or ""."""
    alone = not source.videos and len(source.audios) == 1  # else the header's length may be another stream's
    promised = source.duration_s if alone else None
    if promised is not None and seconds < promised - max(0.25, 0.01 * promised):
        return f"its header says {promised:.2f} s"
    if source.demuxer == "ogg" and not _ogg_ends(source.path):
        return "its last page is missing"
    return complaints[-1] if complaints else ""


def _ogg_ends(path: Path) -> bool:
    """Whether the last page of an Ogg file is whole and marked as a stream's end (RFC 3533, section 6)."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 70_000))  # a page has 65 307 bytes at most
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    return bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


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
