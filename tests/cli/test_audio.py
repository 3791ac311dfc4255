"""Sound that cannot be used is refused in one line; any rate, stereo, silence, very short and very long sound just work."""

import struct
import wave

import numpy as np
import pytest

from avatar_core.io.audio import read_audio, write_wav
from tests.cli.commands import WITH_STUDENT, assert_refused, empty, folder, missing, picture, seconds


def empty_wav(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))


def truncated_wav(path):
    write_wav(path, np.zeros(16000))
    path.write_bytes(path.read_bytes()[:9000])


def header_only(path):
    write_wav(path, np.zeros(16000))
    path.write_bytes(path.read_bytes()[:30])


def nan_wav(path):
    samples = np.zeros(8000, "<f4")
    samples[4000] = np.nan
    head = struct.pack("<4sI4s", b"RIFF", 36 + 32000, b"WAVE")
    head += struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, 16000, 64000, 4, 32)  # 3: floats
    path.write_bytes(head + struct.pack("<4sI", b"data", 32000) + samples.tobytes())


def too_short(path):
    write_wav(path, np.zeros(300))


def text_file(path):
    path.write_text("la la la")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, ["no such file"]),
        (empty, ["empty file"]),
        (empty_wav, ["no samples"]),
        (truncated_wav, ["cut off"]),
        (header_only, ["cut off"]),
        (nan_wav, ["NaN"]),
        (too_short, ["0.04 s"]),
        (text_file, ["something else"]),
        (folder, ["a folder"]),
    ],
)
def test_unusable_audio(avatar, tmp_path, make, words):
    audio, out = tmp_path / "voice.wav", tmp_path / "out.mp4"
    make(audio)
    result = avatar("speak", "--portrait", picture(tmp_path / "p.png"), "--audio", audio, "--out", out)
    assert_refused(result, str(audio), *words)
    assert not out.exists()


class TestWithStudent:
    pytestmark = WITH_STUDENT

    @pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (44100, 2), (48000, 1)])
    def test_rates_and_stereo_just_work(self, speak, tmp_path, rate, channels):
        t = np.arange(int(rate * 0.6)) / rate
        samples = (np.sin(2 * np.pi * 200 * t) * 9000).astype("<i2")
        with wave.open(str(tmp_path / "a.wav"), "wb") as file:
            file.setparams((channels, 2, rate, 0, "NONE", ""))
            file.writeframes(np.repeat(samples, channels).tobytes())
        video, text = speak(tmp_path / "a.wav")
        assert "real-time factor" in text and seconds(video) == pytest.approx(0.6)

    def test_silence_and_a_tenth_of_a_second_just_work(self, speak, tmp_path):
        for length in (1600, 16000):
            write_wav(tmp_path / "a.wav", np.zeros(length))
            video, _ = speak(tmp_path / "a.wav", out=f"{length}.mp4")
            assert seconds(video) == pytest.approx(np.ceil(length / 640) / 25)

    def test_an_hour_can_be_given(self, speak, tmp_path):
        with wave.open(str(tmp_path / "hour.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            for _ in range(60):
                file.writeframes(bytes(8000 * 60 * 2))
        assert len(read_audio(tmp_path / "hour.wav")) == 3600 * 16000
        video, _ = speak(tmp_path / "hour.wav", "--preview", 0.4)
        assert seconds(video) == pytest.approx(0.4)

    def test_same_input_same_video(self, speak, tone):
        first, second = (speak(tone, out=f"{name}.mp4")[0] for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
