"""Programs of one's own as teachers, what a program does wrong, and how its videos are brought into step."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from avatar_core.device import CPU, Compute
from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio
from avatar_core.io.images import write_png
from avatar_core.io.video import read_video, write_mp4
from avatar_core.teacher.collect import collect, sound_lag
from avatar_core.teacher.echomimic import EchoMimicV2
from avatar_core.teacher.picture import framed
from avatar_core.teacher.programs import run_program
from tests.teacher.programs import checkout, own_program, request_of, save_portrait, voice


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    return save_portrait(tmp_path_factory.mktemp("portrait"), 512)


COPY = """
import sys, subprocess, imageio_ffmpeg
image, audio, out, frames, seed, prompt = sys.argv[1:]
assert int(frames) == 20 and int(seed) == 5 and "man" in prompt
subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-loop", "1", "-i", image, "-i", audio, "-r", "30",
                "-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest", out], check=True)
"""


def test_any_program_can_be_a_teacher(tmp_path, portrait):
    teacher = own_program(tmp_path, COPY, width=96, height=128, revision="r1")
    teacher.videos([request_of(portrait, "c", frames=20)], tmp_path, CPU, lambda: None)
    assert read_video(tmp_path / "c.mp4").shape == (20, 128, 96, 3)
    assert teacher.card.row == {"model": "mine", "revision": "r1", "licence": "MIT"}


def test_a_program_of_ones_own_must_be_declared(tmp_path):
    lines = "\n".join(own_program(tmp_path, "", may_train=False, arguments=["{image}", "{wav}"]).lacking())
    assert "teacher.command.may_train: expected true, after reading that MIT lets" in lines
    assert "expected {name} of image, audio, out, prompt, seed, frames alone" in lines
    (line,) = own_program(tmp_path, "", arguments=["{image}", "{audio}"]).lacking()
    assert "expected {out} in them" in line
    (line,) = own_program(tmp_path, "", model="HunyuanVideo-Avatar").lacking()
    assert "clause 5(b)" in line


@pytest.mark.parametrize(
    "code, line",
    [
        ("import sys; print('CUDA out of memory'); sys.exit(3)", r"found exit code 3: CUDA out of memory; see .*log\.txt"),
        ("", r"made\.mp4: expected a video of c, found none"),
        (COPY.replace('"-i", audio,', '"-f", "lavfi", "-i", "anoisesrc=d=2:a=0.2",'), "expected the sound of c .* found another"),
        (COPY.replace('"-i", audio,', '"-itsoffset", "0.3", "-i", audio,'), r"sound 0\.000 s after .* found it at 0\.3"),
        (COPY.replace('"-shortest",', '"-t", "0.5",'), "expected 20 frames at 25 fps with the sound, found 1[23]"),
        ("import time; time.sleep(60)", "expected an end within 0.02 minutes"),
    ],
)  # fmt: skip
def test_what_a_program_does_wrong_is_one_line(tmp_path, portrait, code, line):
    teacher = own_program(tmp_path, code, minutes=0.02 if "sleep" in code else 5.0)
    with pytest.raises(UserError, match=line):
        teacher.videos([request_of(portrait, "c", frames=20)], tmp_path, CPU, lambda: None)
    assert not (tmp_path / "c.mp4").exists()


def test_a_framing_that_a_model_was_not_made_for_is_refused_before_it_starts(tmp_path, portrait):
    teacher = checkout(tmp_path, EchoMimicV2)
    with pytest.raises(
        UserError, match=r"expected clips of waist_up, found face .*set speech\.face_clips: 0"
    ):
        teacher.videos([request_of(portrait, "c", "face")], tmp_path, CPU, lambda: None)
    with pytest.raises(UserError, match=r"poses: expected a sequence of 97 frames"):
        teacher.videos([request_of(portrait, "c", frames=100)], tmp_path, CPU, lambda: None)


def test_nothing_of_a_program_outlives_it(tmp_path):
    code = (
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path('child').write_text(str(child.pid))\n"
        "import time; time.sleep(600)\n"
    )
    with pytest.raises(UserError, match="still running"):
        run_program([sys.executable, "-c", code], tmp_path, tmp_path / "log", "x", 3.0, CPU)
    pid = int((tmp_path / "child").read_text())
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    os.kill(pid, 9)
    pytest.fail("the child lives on")


def test_a_program_sees_its_own_packages_and_the_runs_card_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    code = "import os, json; json.dump([os.environ.get('PYTHONPATH'), os.environ.get('CUDA_VISIBLE_DEVICES')], open('seen', 'w'))"
    run_program([sys.executable, "-c", code], tmp_path, tmp_path / "log", "x", 60.0, Compute("cuda:1"))
    assert json.loads((tmp_path / "seen").read_text()) == [None, "6"]


def test_where_a_sound_lies_in_another_is_measured():
    audio = voice(40)
    for lag in (-0.1, 0.0, 0.34, 0.9):
        shift = round(lag * 16000)
        moved = np.concatenate([np.zeros(shift, np.float32), audio]) if shift >= 0 else audio[-shift:]
        found, alike = sound_lag(audio, moved)
        assert found == pytest.approx(lag, abs=1e-4) and alike > 0.9
    assert sound_lag(audio, voice(40, 9))[1] < 0.2
    silent = np.zeros(1600, np.float32)
    assert sound_lag(silent, silent) == (0.0, 1.0) and sound_lag(silent, audio)[1] == 0.0


def test_a_video_of_odd_sides_is_collected(tmp_path):
    audio = voice(10)
    frames = np.random.default_rng(0).integers(0, 255, (14, 66, 98, 3), np.uint8)
    write_mp4(tmp_path / "made.mp4", frames, audio=np.concatenate([np.zeros(1280, np.float32), audio]))
    collect(tmp_path / "made.mp4", tmp_path / "c.mp4", audio, 0.08)
    assert read_video(tmp_path / "c.mp4").shape == (10, 66, 98, 3)
    assert np.corrcoef(read_audio(tmp_path / "c.mp4")[: len(audio)], audio)[0, 1] > 0.7


def test_pictures_are_framed_about_the_face(portrait, tmp_path):
    from avatar_core.perception.holistic.keypoints import HolisticKeypoints
    from avatar_core.template.landmarks import KEYPOINT_INDEX

    heads = {}
    for framing, size in (("face", (256, 256)), ("waist_up", (256, 256)), ("full_body", (200, 360))):
        picture = framed(portrait, framing, *size)
        assert picture.shape == (size[1], size[0], 3) and picture.dtype == np.uint8
        xy, confidence = (v[0] for v in HolisticKeypoints().keypoints(picture[None]))
        crown, chin = (xy[KEYPOINT_INDEX[name]] for name in ("crown", "jaw.chin"))
        assert confidence[KEYPOINT_INDEX["jaw.chin"]] > 0.5 and 0 < crown[1] < chin[1] < size[1]
        heads[framing] = (chin[1] - crown[1]) / size[1]
    assert (
        heads["face"] == pytest.approx(0.6, abs=0.08)
        and heads["face"] > 1.8 * heads["waist_up"] > 1.8 * heads["full_body"]
    )
    write_png(tmp_path / "nobody.png", np.full((300, 300, 3), 0.5, np.float32))
    with pytest.raises(
        UserError, match=r"nobody\.png: expected a face of 24 px or more to animate, found none"
    ):
        framed(tmp_path / "nobody.png", "face", 64, 64)
