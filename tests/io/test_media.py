"""Video, audio and pictures: in sync, the same bytes every time, bounded memory, and one line for what cannot be read."""

import resource
import subprocess
import sys
import wave

import numpy as np
import pytest
from PIL import Image

from avatar_core.clock import pad_to_frames
from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio, write_wav
from avatar_core.io.images import contact_sheet, read_image, write_png
from avatar_core.io.video import VideoWriter, iterate_video, read_video, write_mp4


def moving_square(frames=50, side=96):
    video = np.full((frames, side, side, 3), 40, np.uint8)
    for t in range(frames):
        video[t, 20:50, t % 60 : t % 60 + 20] = (230, 60, 40)
    return video


def clicks(frames):
    """Noise bursts at the start of every 10th frame."""
    audio = np.zeros(frames * 640, np.float32)
    burst = np.random.default_rng(0).uniform(-0.9, 0.9, 320)
    for t in range(0, frames, 10):
        audio[t * 640 : t * 640 + 320] = burst
    return audio


def test_video_round_trip_same_bytes_and_in_sync(tmp_path):
    video = moving_square()
    video[:] = 20
    video[::10] = 235  # a flash with every click
    audio = clicks(50)
    write_mp4(tmp_path / "a.mp4", video, audio=audio)
    write_mp4(tmp_path / "b.mp4", iter(video), audio=audio)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    back, sound = read_video(tmp_path / "a.mp4"), read_audio(tmp_path / "a.mp4")
    assert back.shape == video.shape and len(sound) == len(audio)
    flashes = np.flatnonzero(back.mean((1, 2, 3)) > 128)
    np.testing.assert_array_equal(flashes, np.arange(0, 50, 10))
    lag = np.argmax(np.correlate(sound[3200:25600], audio[4000:24800], "valid")) - 800
    assert abs(lag) < 320, f"sound {lag / 16:.1f} ms off the pictures (half a frame is 20 ms)"


def test_colours_survive(tmp_path):
    video = moving_square(10)
    write_mp4(tmp_path / "a.mp4", video, crf=8)
    inner = read_video(tmp_path / "a.mp4")[:, 60:90, 70:90].astype(int)
    assert abs(inner - 40).mean() < 2


def test_failed_writer_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", 64, 64) as writer:
        writer.write(np.zeros((3, 64, 64, 3), np.uint8))
        raise RuntimeError
    with pytest.raises(UserError, match="no frames"), VideoWriter(tmp_path / "a.mp4", 64, 64):
        pass
    with pytest.raises(UserError, match="even sides"):
        VideoWriter(tmp_path / "a.mp4", 65, 64)
    assert list(tmp_path.iterdir()) == []


def test_a_minute_needs_no_more_memory_than_seconds(tmp_path):
    code = (
        "import numpy as np, resource, sys\n"
        "from avatar_core.io.video import write_mp4\n"
        "frame = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)\n"
        "n = int(sys.argv[1])\n"
        "write_mp4(sys.argv[2], (np.roll(frame, t, 0) // 8 * 8 for t in range(n)),"
        " audio=np.zeros(n * 640, np.float32), preset='ultrafast')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )

    def peak(frames):
        command = [sys.executable, "-c", code, str(frames), str(tmp_path / "a.mp4")]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert peak(750) - peak(50) < 40  # 700 frames would be 138 MB


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is no video at all", b"\0\0\0\x18ftypmp42" + b"\0" * 100]
)
def test_not_a_video(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4"):
        read_video(path)


def test_playlist_dressed_as_video_is_refused(tmp_path):
    secret = tmp_path / "secret.mp4"
    write_mp4(secret, moving_square(5))
    path = tmp_path / "a.mp4"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError, match="something else"):
        read_video(path)


def test_truncated_video_and_too_many_frames(tmp_path):
    write_mp4(tmp_path / "a.mp4", moving_square(30))
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:600])
    with pytest.raises(UserError, match=r"b\.mp4"):
        read_video(tmp_path / "b.mp4")
    with pytest.raises(UserError, match="at most 10 frames"):
        list(iterate_video(tmp_path / "a.mp4", max_frames=10))
    with pytest.raises(UserError, match="at most 64 px"):
        list(iterate_video(tmp_path / "a.mp4", max_side=64))


def write_raw_wav(path, samples, rate, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.asarray(samples) * 32767).astype("<i2").tobytes())


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_other_rates_are_resampled_without_drift(tmp_path, rate):
    t = np.arange(rate * 3) / rate
    write_raw_wav(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * t), rate)
    sound = read_audio(tmp_path / "a.wav")
    assert abs(len(sound) - 48000) <= 16
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(sound)) / 16000)
    assert np.abs(sound[1600:-1600] - expected[1600:-1600]).max() < 0.02


def test_stereo_is_averaged(tmp_path):
    left, right = np.full(16000, 0.5), np.full(16000, -0.1)
    write_raw_wav(tmp_path / "a.wav", np.stack([left, right], 1).ravel(), 16000, channels=2)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), 0.2, atol=1e-3)


def test_wav_round_trip_is_exact_after_one_rounding(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, 6400).astype(np.float32)
    write_wav(tmp_path / "a.wav", samples)
    once = read_audio(tmp_path / "a.wav")
    write_wav(tmp_path / "b.wav", once)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert np.abs(once - samples).max() <= 0.51 / 32768 + 1 / 32768


def test_long_recording_is_read(tmp_path):
    quarter = np.zeros(16000 * 900, np.float32)
    write_wav(tmp_path / "a.wav", quarter)
    assert len(read_audio(tmp_path / "a.wav")) == len(quarter)
    with pytest.raises(UserError, match="at most 600 s"):
        read_audio(tmp_path / "a.wav", max_seconds=600)


def test_pad_to_frames():
    assert len(pad_to_frames(np.ones(641))) == 1280


def test_image_orientation_and_transparency(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (120, 80, 3)
    rgba = np.zeros((80, 80, 4), np.uint8)
    rgba[20:60, 20:60] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "b.png")
    image = read_image(tmp_path / "b.png", background=0.5)
    np.testing.assert_allclose(image[0, 0], 0.5)
    np.testing.assert_allclose(image[40, 40], [1, 0, 0])
    with pytest.raises(UserError, match="transparent"):
        read_image(tmp_path / "b.png", alpha="error")


def test_png_and_contact_sheet_have_stable_bytes(tmp_path):
    images = [np.random.default_rng(k).uniform(size=(50 + k, 70, 3)) for k in range(7)]
    for name in ("a", "b"):
        contact_sheet(
            tmp_path / f"{name}.png", images, [f"picture {k}\nline" for k in range(7)], columns=3, title="t"
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    sheet = read_image(tmp_path / "a.png")
    assert sheet.shape[1] > 3 * 192 and sheet.std() > 0.1
    write_png(tmp_path / "c.png", images[0])
    np.testing.assert_allclose(read_image(tmp_path / "c.png", min_side=1), images[0], atol=1 / 255)


def test_image_size_is_checked_before_decoding(tmp_path):
    Image.new("L", (20_000, 3000)).save(tmp_path / "wide.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="20000 x 3000"):
        read_image(tmp_path / "wide.png")
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    )  # kB; decoded it would be 720 MB
