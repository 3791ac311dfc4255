"""Sound at the door: every usual kind reads alike, every broken kind is one clear line."""

from __future__ import annotations

import struct
import subprocess
import wave

import imageio_ffmpeg
import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio, write_wav


def _tone(rate: int, seconds: float = 0.6) -> np.ndarray:
    time = np.arange(int(rate * seconds)) / rate
    return 0.4 * np.sin(2 * np.pi * 440 * time) * np.minimum(1, 20 * time)


def _pcm_wav(path, samples: np.ndarray, rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def _float_wav(path, samples: np.ndarray, rate: int = 16000) -> None:
    data = samples.astype("<f4").tobytes()
    head = (
        b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 3, 1, rate, rate * 4, 4, 32)
        + b"data"
        + struct.pack("<I", len(data))
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", len(head) + len(data)) + head + data)


def _convert(source, target) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-i", str(source), str(target)]
    subprocess.run(command, check=True)


def _frequency(audio: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return float(np.argmax(spectrum) * 16000 / len(audio))


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_any_rate(tmp_path, rate):
    _pcm_wav(tmp_path / "a.wav", _tone(rate), rate)
    audio = read_audio(tmp_path / "a.wav")
    assert audio.dtype == np.float32 and audio.ndim == 1
    assert len(audio) == pytest.approx(9600, abs=20)
    assert _frequency(audio) == pytest.approx(440, abs=3)
    assert np.abs(audio[2000:8000]).max() == pytest.approx(0.4, abs=0.02)


def test_stereo_is_averaged(tmp_path):
    tone = _tone(44100)
    _pcm_wav(tmp_path / "a.wav", np.stack([tone, 0 * tone], 1), 44100)
    audio = read_audio(tmp_path / "a.wav")
    assert np.abs(audio[2000:8000]).max() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("kind", ["flac", "mp3", "ogg", "m4a"])
def test_other_kinds(tmp_path, kind):
    _pcm_wav(tmp_path / "a.wav", _tone(44100), 44100)
    _convert(tmp_path / "a.wav", tmp_path / f"b.{kind}")
    disguised = tmp_path / "sound.bin"  # the name does not matter, the first bytes do
    disguised.write_bytes((tmp_path / f"b.{kind}").read_bytes())
    audio = read_audio(disguised)
    assert len(audio) == pytest.approx(9600, abs=1400)
    assert _frequency(audio) == pytest.approx(440, abs=5)


def test_silence_and_a_tenth_of_a_second(tmp_path):
    write_wav(tmp_path / "silent.wav", np.zeros(16000, np.float32))
    assert np.all(read_audio(tmp_path / "silent.wav") == 0)
    _pcm_wav(tmp_path / "short.wav", _tone(48000, 0.1), 48000)
    assert len(read_audio(tmp_path / "short.wav")) == pytest.approx(1600, abs=4)


def test_an_hour(tmp_path):
    """8-bit 8 kHz keeps the file small; the reader must not mind the length."""
    with wave.open(str(tmp_path / "hour.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"\x80" * (8000 * 3600))
    audio = read_audio(tmp_path / "hour.wav")
    assert len(audio) == pytest.approx(3600 * 16000, abs=20)
    with pytest.raises(UserError, match="at most 60 s"):
        read_audio(tmp_path / "hour.wav", max_seconds=60)


def _write(path, data: bytes):
    path.write_bytes(data)
    return path


def test_bad_files(tmp_path):
    _pcm_wav(tmp_path / "good.wav", _tone(44100), 44100)
    _convert(tmp_path / "good.wav", tmp_path / "good.flac")
    _convert(tmp_path / "good.wav", tmp_path / "good.m4a")
    wav, flac, m4a = ((tmp_path / f"good.{k}").read_bytes() for k in ("wav", "flac", "m4a"))
    _float_wav(tmp_path / "nan.wav", np.array([0.1, np.nan] * 4000))
    _float_wav(tmp_path / "inf.wav", np.array([0.1, np.inf] * 4000))
    bad = [
        tmp_path / "missing.wav",
        tmp_path,
        _write(tmp_path / "empty.wav", b""),
        _write(tmp_path / "text.wav", b"this is not sound at all, only words"),
        _write(tmp_path / "picture.wav", b"\x89PNG\r\n\x1a\n" + bytes(200)),
        _write(tmp_path / "playlist.wav", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
        _write(tmp_path / "header.wav", wav[:30]),
        _write(tmp_path / "cut.wav", wav[: len(wav) // 2]),
        _write(tmp_path / "nosamples.wav", wav[:40] + struct.pack("<I", 0)),
        _write(tmp_path / "cut.flac", flac[: len(flac) // 2]),
        _write(tmp_path / "cut.m4a", m4a[: len(m4a) // 2]),
        tmp_path / "nan.wav",
        tmp_path / "inf.wav",
    ]
    for path in bad:
        with pytest.raises(UserError) as caught:
            read_audio(path)
        message = str(caught.value)
        assert path.name in message and "\n" not in message and "expected" in message, message


def test_float_beyond_full_scale_is_finite(tmp_path):
    _float_wav(tmp_path / "loud.wav", 3.0 * _tone(16000))
    assert np.isfinite(read_audio(tmp_path / "loud.wav")).all()
