"""Videos from other programs: 25 fps by time, in step with their sound, the real streams, shown as a player shows them."""

import numpy as np
import pytest

from avatar_core.errors import InputWarning, UserError
from avatar_core.io.audio import Soundtrack, read_audio, read_soundtrack
from avatar_core.io.ffmpeg import probe
from avatar_core.io.video import read_video, write_mp4
from tests.io.foreign import H264, beep, ffmpeg, flash


def first_flash(path):
    return int(np.flatnonzero(read_video(path).mean((1, 2, 3)) > 128)[0])


def first_beep(path):
    return np.flatnonzero(np.abs(read_audio(path)) > 0.1)[0] / 16000


@pytest.mark.parametrize("rate", ["10", "24", "25", "30000/1001", "30", "50", "60", "120"])
def test_any_frame_rate_comes_by_time(tmp_path, rate):
    ffmpeg(*flash(rate), *H264, tmp_path / "a.mp4")
    assert first_flash(tmp_path / "a.mp4") == 50
    assert abs(len(read_video(tmp_path / "a.mp4")) - 75) <= 1


def test_every_frame_is_the_nearest_in_time(tmp_path):
    """Each source picture carries its number as a grey level: what comes at k / 25 was shown within half its duration of it."""
    for rate in (24, 30, 60):
        ramp = f"color=s=64x64:r={rate}:d=2,format=gray,geq=lum='2*N'"
        ffmpeg("-f", "lavfi", "-i", ramp, "-c:v", "ffv1", tmp_path / "a.mkv")
        number = np.round(read_video(tmp_path / "a.mkv").mean((1, 2, 3)) / 2)
        late = number / rate - np.arange(len(number)) / 25
        assert np.abs(late[:-1]).max() <= 0.5 / rate + 0.001 and abs(late[:-1].mean()) < 0.003


def test_variable_frame_rate_holds_a_picture_until_the_next_one(tmp_path):
    keep = "select='lt(t,0.5)+gte(t,1.999)',setpts=PTS"  # nothing new for a second and a half
    ffmpeg(*flash(30), "-vf", keep, "-fps_mode", "vfr", *H264, tmp_path / "a.mp4")
    assert first_flash(tmp_path / "a.mp4") == 50 and len(read_video(tmp_path / "a.mp4")) == 75


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("mpg", "mpeg2video"),
        ("mts", "libx264"),
        ("wmv", "wmv2"),
        ("avi", "mpeg4"),
        ("webm", "libvpx"),
        ("3gp", "libx264"),
    ],
)
def test_every_common_kind_is_read_in_step_and_nothing_is_said(tmp_path, recwarn, ending, codec):
    sound = {"webm": "libopus", "3gp": "aac", "avi": "pcm_s16le"}.get(
        ending, "mp2" if ending == "mpg" else "ac3"
    )
    sound = "wmav2" if ending == "wmv" else sound
    ffmpeg(*flash(25, 1, 2), *beep(1, 2), "-c:v", codec, "-c:a", sound, tmp_path / f"a.{ending}")
    beeps, flashes = first_beep(tmp_path / f"a.{ending}"), first_flash(tmp_path / f"a.{ending}") / 25
    assert (
        beeps == pytest.approx(flashes, abs=0.02) and flashes in (1, 1.04) and not recwarn.list
    )  # 1.04: WMV counts from -0.04


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "mov", "flv"])
@pytest.mark.parametrize(("sound_late", "pictures_late"), [(0.37, 0), (0, 0.4)])
def test_streams_that_start_apart_stay_apart(tmp_path, ending, sound_late, pictures_late):
    sources = ["-itsoffset", pictures_late, *flash(25, 1), "-itsoffset", sound_late, *beep(1)]
    ffmpeg(*sources, "-map", "0:v", "-map", "1:a", *H264, "-c:a", "aac", tmp_path / f"a.{ending}")
    apart = first_beep(tmp_path / f"a.{ending}") - first_flash(tmp_path / f"a.{ending}") / 25
    assert apart == pytest.approx(sound_late - pictures_late, abs=0.025)


def test_sound_late_by_an_edit_list_or_early_by_a_cut(tmp_path):
    ffmpeg(*flash(25), *beep(), *H264, "-g", 10, "-c:a", "aac", tmp_path / "whole.mp4")
    # a cut between key frames: an edit list hides the first pictures
    ffmpeg("-ss", 0.9, "-i", tmp_path / "whole.mp4", "-c", "copy", tmp_path / "cut.mp4")
    assert first_beep(tmp_path / "cut.mp4") - first_flash(tmp_path / "cut.mp4") / 25 == pytest.approx(
        0, abs=0.025
    )


def test_a_cover_picture_is_not_the_video(tmp_path):
    ffmpeg(*flash(25), *H264, tmp_path / "plain.mp4")
    ffmpeg("-f", "lavfi", "-i", "color=red:s=200x200", "-frames:v", 1, tmp_path / "cover.png")
    two = ["-i", tmp_path / "cover.png", "-i", tmp_path / "plain.mp4", "-map", "0", "-map", "1", "-c", "copy"]
    ffmpeg(*two, "-disposition:v:0", "attached_pic", tmp_path / "marked.mp4")
    ffmpeg(*two, tmp_path / "unmarked.mkv")
    for name in ("marked.mp4", "unmarked.mkv"):
        assert len(read_video(tmp_path / name)) == 75 and first_flash(tmp_path / name) == 50
    ffmpeg(
        *beep(),
        "-i",
        tmp_path / "cover.png",
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "copy",
        "-disposition:v",
        "attached_pic",
        tmp_path / "song.m4a",
    )
    assert first_beep(tmp_path / "song.m4a") == pytest.approx(2, abs=0.01)
    with pytest.raises(UserError, match="cover picture"):
        read_video(tmp_path / "song.m4a")


def test_first_of_several_sounds(tmp_path):
    ffmpeg(*flash(25), *beep(1), *beep(0.2), "-map", 0, "-map", 1, "-map", 2, *H264, tmp_path / "a.mkv")
    assert first_beep(tmp_path / "a.mkv") == pytest.approx(1, abs=0.01)


def test_pixels_that_are_not_square_and_pictures_that_lie(tmp_path):
    ffmpeg(*flash(25, 0), "-vf", "scale=96:128,setsar=4/3", *H264, tmp_path / "sar.mp4")
    assert read_video(tmp_path / "sar.mp4").shape[1:] == (128, 128, 3)
    left = "color=black:s=128x64:r=25:d=1,drawbox=c=white:t=fill:w=64"
    ffmpeg("-f", "lavfi", "-i", left, *H264, tmp_path / "plain.mp4")
    ffmpeg("-display_rotation", 90, "-i", tmp_path / "plain.mp4", "-c", "copy", tmp_path / "turned.mp4")
    turned = read_video(tmp_path / "turned.mp4")[5]  # 90 degrees anticlockwise: left goes down
    assert turned.shape == (128, 64, 3) and turned[96, 32].mean() > 200 > 50 > turned[32, 32].mean()


def test_interlaced_pictures_have_no_combs(tmp_path):
    moving = (
        "nullsrc=s=64x64:r=50:d=1,geq=lum='if(between(X,mod(6*N,64),mod(6*N,64)+20),235,16)':cb=128:cr=128"
    )
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        moving,
        "-vf",
        "interlace=lowpass=off,setfield=tff",
        "-c:v",
        "mpeg2video",
        "-flags",
        "+ilme+ildct",
        "-q:v",
        2,
        tmp_path / "a.ts",
    )
    frames = read_video(tmp_path / "a.ts")[3:-3].astype(float)
    comb = np.abs(frames[:, 1:-1] - (frames[:, :-2] + frames[:, 2:]) / 2).mean()
    assert comb < 2 and frames.std() > 50


COLOURS = np.array(
    [[200, 150, 120], [230, 60, 40], [20, 90, 160], [0, 255, 0], [40, 40, 40], [255, 255, 255]]
)


def bars(height=64):
    return np.repeat(COLOURS.astype(np.uint8), 32, 0)[None].repeat(height, 0)


def centres(frame):
    return frame[frame.shape[0] // 2, frame.shape[1] // 12 :: frame.shape[1] // 6].astype(int)


def test_our_videos_say_their_colours_and_keep_them(tmp_path):
    write_mp4(tmp_path / "a.mp4", [bars()] * 5, crf=4)
    assert "yuv420p(tv, bt709, progressive)" in probe(tmp_path / "a.mp4", "a video").videos[0].about
    assert np.abs(centres(read_video(tmp_path / "a.mp4")[2]) - COLOURS).max() <= 2


@pytest.mark.parametrize(
    ("size", "matrix", "tag"),
    [
        ("192x64", "bt601", "unknown"),  # small and untagged
        ("1152x768", "bt709", "unknown"),  # HD and untagged
        ("192x64", "bt709", "bt709"),
        ("192x64", "bt601", "smpte170m"),
    ],
)
def test_colours_of_others(tmp_path, size, matrix, tag):
    raw = tmp_path / "raw.rgb"
    raw.write_bytes(bars().tobytes() * 3)
    reach = "pc" if tag == "smpte170m" else "tv"
    convert = f"scale={size}:flags=neighbor,scale=out_color_matrix={matrix}:out_range={reach}:flags=accurate_rnd,format=yuv444p"
    ffmpeg(
        "-f",
        "rawvideo",
        "-s",
        "192x64",
        "-pix_fmt",
        "rgb24",
        "-r",
        25,
        "-i",
        raw,
        "-vf",
        f"{convert},setparams=colorspace={tag}:range={reach}",
        "-c:v",
        "libx264",
        "-qp",
        1,
        tmp_path / "a.mp4",
    )
    assert np.abs(centres(read_video(tmp_path / "a.mp4")[1]) - COLOURS).max() <= 3


def test_high_dynamic_range_is_mapped(tmp_path):
    """Skin of ordinary brightness in HLG, as telephones record it, comes at ordinary brightness; taken as SDR it is pale."""
    sdr = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr:range=pc,zscale=t=linear:npl=203"
    skin = f"color=0xb4876f:s=64x64:r=25:d=0.2,format=gbrpf32le,{sdr}"
    hlg = f"{skin},zscale=p=bt2020:t=arib-std-b67:m=bt2020nc:r=tv:npl=203,format=yuv420p10le"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        hlg,
        "-c:v",
        "libx265",
        "-x265-params",
        "log-level=none:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc",
        tmp_path / "a.mp4",
    )
    skin = read_video(tmp_path / "a.mp4")[1].mean((0, 1))
    assert np.abs(skin - [180, 135, 111]).max() < 6


@pytest.mark.parametrize(
    "name", ["talk: take 2.mp4", "http:a.mp4", "-i.mp4", "shot %03d.mp4", "pipe:1.mp4", "a[b]'c.mp4"]
)
def test_any_file_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_mp4(name, np.zeros((5, 64, 64, 3), np.uint8), audio=np.zeros(3200, np.float32))
    assert len(read_video(name)) == 5 and len(read_audio(name)) == 3200


def test_a_video_that_breaks_off_is_said(tmp_path):
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc=s=128x128:r=25:d=4", *H264, "-movflags", "faststart", tmp_path / "a.mp4"
    )
    ffmpeg("-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "a.mkv")
    for ending in ("mp4", "mkv"):
        whole = (tmp_path / f"a.{ending}").read_bytes()
        (tmp_path / f"half.{ending}").write_bytes(whole[: len(whole) // 2])
        with pytest.warns(InputWarning, match="cut off or damaged"):
            assert 20 < len(read_video(tmp_path / f"half.{ending}")) < 90


def test_a_video_carries_a_recording_as_it_came(tmp_path):
    stereo = "aevalsrc='0.4*sin(2*PI*9000*t)|0.4*sin(2*PI*500*t)':s=44100:d=1.1"
    ffmpeg("-f", "lavfi", "-i", stereo, tmp_path / "a.flac")
    _, track = read_soundtrack(tmp_path / "a.flac")
    assert track == Soundtrack(tmp_path / "a.flac", None, pytest.approx(1.1, abs=1e-3))
    longer = Soundtrack(track.path, None, 1.2)
    for _ in range(2):
        write_mp4(tmp_path / "a.mp4", np.zeros((30, 64, 64, 3), np.uint8), audio=longer)
    about = probe(tmp_path / "a.mp4", "a video").audios[0].about
    assert "48000 Hz, stereo" in about and "aac" in about
    ffmpeg("-i", tmp_path / "a.mp4", "-map", "0:a", "-f", "f32le", tmp_path / "a.raw")
    left, right = np.fromfile(tmp_path / "a.raw", "<f4").reshape(-1, 2).T
    assert len(left) == pytest.approx(1.2 * 48000, abs=1100)
    spectrum = np.abs(np.fft.rfft(left[4800:43200]))  # 9 kHz, which the networks' 16 kHz do not hold
    assert spectrum.argmax() * 48000 / 38400 == pytest.approx(9000, abs=5)
    assert np.abs(left[54500:57000]).max() < 0.01 < 0.2 < right[4800:43200].std()
