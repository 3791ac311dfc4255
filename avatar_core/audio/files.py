"""Sound files at the door: anything usual in, mono 16 kHz float32 out.

The container is recognised by its first bytes and handed to ffmpeg with that demuxer forced, so that a playlist or a
script disguised as sound is never opened. ffmpeg is the binary that imageio-ffmpeg carries.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
import wave
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from avatar_core.errors import UserError

SAMPLE_RATE = 16_000
MAX_SECONDS = 2 * 3600
MAX_BYTES = 6 << 30
_KINDS = "wav, flac, mp3, ogg, m4a or webm"


def read_audio(path: Path | str, *, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Decode a sound file to (S,) float32 in [-1, 1], mono, 16 kHz.

    Any sample rate and number of channels (mixed to one). Silence and a tenth of a second are fine.

    Raises:
        UserError: missing, empty, truncated, not sound, not finite (NaN in a float wav), larger than 6 GiB or longer
            than `max_seconds`.
    """
    path = Path(path)
    demuxer, declared = _sniff(path)
    audio = _decode(path, demuxer, max_seconds)
    if audio.size == 0:
        raise UserError(f"{path}: expected sound, found a {demuxer} file without any samples")
    if declared is not None and audio.size / SAMPLE_RATE < declared - 0.1 and declared <= max_seconds:
        found = audio.size / SAMPLE_RATE
        raise UserError(
            f"{path}: expected {declared:.2f} s of sound as its header says, found {found:.2f} s (truncated?)"
        )
    if audio.size > max_seconds * SAMPLE_RATE:
        raise UserError(f"{path}: expected at most {max_seconds:g} s of sound, found more")
    if not np.isfinite(audio).all():
        raise UserError(f"{path}: expected finite samples, found NaN or infinity")
    return np.clip(audio, -1.0, 1.0)


def write_wav(path: Path | str, audio: np.ndarray) -> None:
    """Write (S,) float in [-1, 1] as a 16-bit mono 16 kHz wav; atomic (the file is whole or not there)."""
    path = Path(path)
    assert audio.ndim == 1, "mono audio only"
    pcm = np.clip(np.round(audio.astype(np.float64) * 32768.0), -32768, 32767).astype("<i2")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file, wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(SAMPLE_RATE)
            out.writeframes(pcm.tobytes())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sniff(path: Path) -> tuple[str, float | None]:
    """The ffmpeg demuxer for the file, and the seconds its header promises where that can be told."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise UserError(f"{path}: expected a sound file, found a folder")
        with path.open("rb") as file:
            head = file.read(65_536)
    except OSError as problem:
        raise UserError(f"{path}: expected a sound file, found none ({problem.strerror})") from None
    if size == 0:
        raise UserError(f"{path}: expected a sound file, found an empty file")
    if size > MAX_BYTES:
        raise UserError(f"{path}: expected at most {MAX_BYTES >> 30} GiB, found {size / (1 << 30):.1f} GiB")
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav", _wav_seconds(path, size)
    if head[:4] == b"fLaC":
        return "flac", _flac_seconds(head)
    if head[:4] == b"OggS":
        return "ogg", None
    if head[4:8] == b"ftyp":
        return "mov", None
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska", None
    if head[:3] == b"ID3" or (
        len(head) > 3 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[2] & 0xF0 != 0xF0
    ):
        return "mp3", None
    raise UserError(f"{path}: expected a {_KINDS} file, found something else")


def _wav_seconds(path: Path, size: int) -> float | None:
    """Walk the chunks of a wav file; None for a stream of unknown length."""
    byte_rate = 0
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            if name == b"fmt ":
                body = file.read(length)
                if len(body) < 16:
                    raise UserError(f"{path}: expected a wav file, found a truncated header")
                byte_rate = struct.unpack("<I", body[8:12])[0]
                file.seek(length & 1, os.SEEK_CUR)
                continue
            if name == b"data":
                if length >= 0xFFFF_FF00 or byte_rate == 0:  # a stream, or RF64: the length is kept elsewhere
                    return None
                if file.tell() + length > size:
                    have = max(0, size - file.tell()) / byte_rate
                    raise UserError(
                        f"{path}: expected {length / byte_rate:.2f} s of sound, found {have:.2f} s (truncated)"
                    )
                return length / byte_rate
            file.seek(length + (length & 1), os.SEEK_CUR)
    raise UserError(f"{path}: expected a wav file, found one without sound data (truncated?)")


def _flac_seconds(head: bytes) -> float | None:
    if len(head) < 42 or head[4] & 0x7F != 0:
        return None
    packed = int.from_bytes(head[18:26], "big")  # 20 bits rate, 3 channels, 5 depth, 36 number of samples
    rate, count = packed >> 44, packed & ((1 << 36) - 1)
    return count / rate if rate and count else None


def _decode(path: Path, demuxer: str, max_seconds: float) -> np.ndarray:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-loglevel", "error"]
    command += ["-protocol_whitelist", "file", "-f", demuxer, "-i", f"file:{path.resolve()}"]
    command += ["-map", "0:a:0", "-vn", "-sn", "-dn", "-t", f"{max_seconds + 1:.3f}"]
    command += ["-ac", "1", "-ar", str(SAMPLE_RATE), "-c:a", "pcm_f32le", "-f", "f32le", "pipe:1"]
    data = bytearray()
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            while block := process.stdout.read(1 << 20):
                data += block
        errors.seek(0)
        message = errors.read(4096).decode("utf-8", "replace")
    if process.returncode != 0:
        lines = message.strip().splitlines()
        reason = (
            lines[-1].replace(f"file:{path.resolve()}", path.name)
            if lines
            else f"exit code {process.returncode}"
        )
        raise UserError(f"{path}: expected sound ({_KINDS}), found a broken file ({reason})")
    return np.frombuffer(data, dtype="<f4", count=len(data) // 4).astype(np.float32, copy=False)
