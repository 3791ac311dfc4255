"""Sound files of others: what a pipe leaves in a header, channels that cancel, recordings that break off, other kinds of file."""

import os
import struct

import numpy as np
import pytest
from PIL import Image

from avatar_core.errors import InputWarning, UserError
from avatar_core.io.audio import read_audio, read_soundtrack, write_wav
from tests.io.foreign import beep, ffmpeg

TONE = 0.4 * np.sin(np.arange(32000) * 0.3)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36])
def test_wav_written_into_a_pipe(tmp_path, size):
    write_wav(tmp_path / "a.wav", TONE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF))
    content[40:44] = struct.pack("<I", size)
    (tmp_path / "b.wav").write_bytes(content)
    np.testing.assert_array_equal(read_audio(tmp_path / "b.wav"), read_audio(tmp_path / "a.wav"))
    ffmpeg("-i", tmp_path / "a.wav", "-ar", 44100, "-ac", 2, tmp_path / "c.wav")
    content = bytearray((tmp_path / "c.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    (tmp_path / "c.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "c.wav")) == pytest.approx(32000, abs=16)


@pytest.mark.parametrize(
    "ending", ["wav", "flac", "mp3", "ogg", "opus", "m4a", "aac", "aiff", "caf", "au", "wma", "mka", "w64"]
)
def test_every_common_kind_is_read_and_nothing_is_said(tmp_path, ending, recwarn):
    rate = [] if ending != "opus" else ["-c:a", "libopus"]
    ffmpeg(*beep(1, 2), *rate, tmp_path / f"a.{ending}")
    sound = read_audio(tmp_path / f"a.{ending}")
    assert len(sound) == pytest.approx(32000, abs=1300) and not recwarn.list
    assert np.flatnonzero(np.abs(sound) > 0.1)[0] / 16000 == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("right", [-1.0, -0.8])
def test_channels_that_cancel_each_other(tmp_path, right):
    path = tmp_path / "a.wav"
    ffmpeg("-f", "lavfi", "-i", f"aevalsrc='0.4*sin(2*PI*300*t)|{right}*0.4*sin(2*PI*300*t)':d=1", path)
    with pytest.warns(InputWarning, match=r"a\.wav: its two channels cancel each other .*left"):
        samples, track = read_soundtrack(path)
    assert samples.std() == pytest.approx(0.4 / np.sqrt(2), rel=0.02) and track.channel == 0


def test_a_voice_in_one_channel_or_in_the_centre(tmp_path, recwarn):
    for name, layout in (("one", "0.4*sin(2*PI*300*t)|0"), ("five", "0|0|0.4*sin(2*PI*300*t)|0|0|0")):
        ffmpeg(
            "-f",
            "lavfi",
            "-i",
            f"aevalsrc='{layout}':d=1:c={'stereo' if name == 'one' else '5.1'}",
            tmp_path / f"{name}.wav",
        )
        assert read_audio(tmp_path / f"{name}.wav").std() > 0.08
    assert not recwarn.list


@pytest.mark.parametrize("ending", ["mp3", "ogg", "flac", "m4a"])
def test_a_recording_that_breaks_off_is_said(tmp_path, ending):
    noise = "anoisesrc=d=4:r=44100:a=0.2"
    ffmpeg("-f", "lavfi", "-i", noise, "-movflags", "faststart", tmp_path / f"a.{ending}")
    whole = (tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"b.{ending}").write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.warns(
        InputWarning, match=rf"b\.{ending}: cut off or damaged .* going on with the [12]\.\d+ s"
    ):
        assert 16000 < len(read_audio(tmp_path / f"b.{ending}")) < 48000


def test_another_kind_of_file_is_named(tmp_path):
    Image.new("RGB", (80, 80)).save(tmp_path / "voice.mp3", format="PNG")
    with pytest.raises(
        UserError, match=r"expected a recording or a video with sound, found a picture \(PNG\)"
    ):
        read_audio(tmp_path / "voice.mp3")
    ffmpeg("-f", "lavfi", "-i", "color=s=64x64:d=0.2", tmp_path / "silent.mp4")
    with pytest.raises(UserError, match="found a video without sound"):
        read_audio(tmp_path / "silent.mp4")
    (tmp_path / "letter.wav").write_bytes(b"%PDF-1.7 and so on" * 30)
    with pytest.raises(UserError, match=r"found a document \(PDF\)"):
        read_audio(tmp_path / "letter.wav")


def test_a_pipe_is_named(tmp_path):
    os.mkfifo(tmp_path / "voice.wav")
    with pytest.raises(UserError, match="found a pipe or device: save"):
        read_audio(tmp_path / "voice.wav")


def test_a_tag_before_the_sound(tmp_path):
    ffmpeg(*beep(1, 2), "-f", "adts", tmp_path / "a.aac")
    tag = b"ID3\x04\0\0" + bytes([0, 0, 4, 0]) + bytes(512)
    (tmp_path / "b.mp3").write_bytes(tag + (tmp_path / "a.aac").read_bytes())
    assert len(read_audio(tmp_path / "b.mp3")) == pytest.approx(32000, abs=1300)
