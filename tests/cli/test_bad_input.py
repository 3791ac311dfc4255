"""Everything a user can get wrong: one line that names it, exit code 2, no traceback, nothing half-written. And what is handled."""

import os
import struct
import sys
import wave

import numpy as np
import pytest
from PIL import Image

from avatar_core import cli
from avatar_core.io.audio import read_audio, write_wav
from avatar_core.io.video import read_video
from avatar_core.student import load_student


@pytest.fixture
def avatar(monkeypatch, capfd, tmp_path):
    """`avatar("speak", ...)` -> (exit code, stdout, stderr): the real command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["avatar", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as ending:
            code = int(ending.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run


def assert_refused(result, *words):
    code, _, err = result
    lines = err.strip().splitlines()
    assert code == 2, err
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "Traceback" not in err and "expected" in err and "found" in err
    for word in words:
        assert word in err, err


def picture(path, size=(256, 320)):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def tone(tmp_path):
    path = tmp_path / "in" / "tone.wav"
    write_wav(path, 0.3 * np.sin(np.arange(16000) * 0.2))
    return path


def missing(path):
    return path


def not_an_image(path):
    path.write_text("I am a letter, not a picture.")


def empty(path):
    path.write_bytes(b"")


def truncated_image(path):
    picture(path)
    path.write_bytes(path.read_bytes()[:4000])


def one_pixel(path):
    Image.new("RGB", (1, 1)).save(path)


def too_wide(path):
    Image.new("L", (20_000, 300)).save(path)


def transparent(path):
    Image.new("RGBA", (300, 300), (0, 0, 0, 0)).save(path)


def folder(path):
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, ["no such file"]),
        (not_an_image, ["expected an image"]),
        (empty, ["expected an image"]),
        (truncated_image, ["truncated"]),
        (one_pixel, ["1 x 1 px"]),
        (too_wide, ["20000 x 300 px"]),
        (transparent, ["fully transparent"]),
        (folder, ["a folder"]),
    ],
)
@pytest.mark.parametrize("command", ["speak", "personalise", "export"])
def test_unusable_portrait(avatar, tmp_path, tone, make, words, command):
    portrait = tmp_path / "portrait.png"
    make(portrait)
    out = tmp_path / {"speak": "out.mp4", "personalise": "out", "export": "out.ply"}[command]
    arguments = [command, "--portrait", portrait, "--out", out] + (
        ["--audio", tone] if command == "speak" else []
    )
    assert_refused(avatar(*arguments), str(portrait), *words)
    assert not out.exists()


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
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + 32000,
        b"WAVE",
        b"fmt ",
        16,
        3,
        1,
        16000,
        64000,
        4,
        32,
        b"data",
        32000,
    )
    path.write_bytes(header + samples.tobytes())


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", ""], ["text"]),
        (["--text", "   \n"], ["text"]),
        (["--text", "\U0001f600\U0001f389"], ["text"]),
        (["--text", "Hello", "--language", "klingon"], ["klingon"]),
        (["--text", "Hello", "--voice", "nobody"], ["nobody"]),
        ([], ["--audio and --text", "neither"]),
        (["--text", "Hello", "--audio", "a.wav"], ["--audio and --text", "both"]),
    ],
)
def test_unusable_text(avatar, tmp_path, arguments, words):
    result = avatar("speak", "--portrait", picture(tmp_path / "p.png"), "--out", "out.mp4", *arguments)
    assert_refused(result, *words)
    assert not (tmp_path / "out.mp4").exists()


def test_unusable_output_and_missing_model(avatar, tmp_path, tone):
    portrait = picture(tmp_path / "p.png")
    assert_refused(avatar("speak", "-p", portrait, "-a", tone, "-o", "out.avi"), "out.avi", ".mp4")
    assert_refused(
        avatar("speak", "-p", portrait, "-a", tone, "-o", "out.mp4"),
        "data/distill/student.safetensors",
        "dvc repro",
    )
    assert_refused(avatar("speak", "-a", tone, "-o", "out.mp4"), "--portrait and --avatar", "neither")
    assert_refused(avatar("profile", "show"), "dvc.yaml")
    assert sorted(os.listdir(tmp_path)) == ["in", "p.png"]


def test_usage_mistakes_also_end_with_2(avatar):
    for arguments in (["speak"], ["dance"], ["speak", "--seed", "x"], ["profile", "use"]):
        code, _, err = avatar(*arguments)
        assert code == 2 and "Traceback" not in err
    code, out, _ = avatar("--help")
    assert code == 0 and all(c in out for c in ("speak", "personalise", "export", "inspect", "profile"))


# --- with a trained student -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def person(smoke):
    """An avatar folder made by the real command from an unseen person's portrait."""
    rows = sorted((smoke.root / "data/identities/portraits").glob("*.png"))
    result = smoke.run(
        sys.executable, "-m", "avatar_core.cli", "personalise", "--portrait", str(rows[-1]), "--out", "person"
    )
    assert result.returncode == 0, result.stderr
    return smoke.root / "person"


with_smoke = [pytest.mark.slow, pytest.mark.xdist_group("smoke")]


def seconds(path):
    return len(read_video(path, max_frames=2000)) / 25


class TestWithStudent:
    pytestmark = with_smoke

    @pytest.fixture
    def model(self, smoke):
        return smoke.root / "data/distill/student.safetensors"

    def test_no_person_in_the_portrait(self, avatar, tmp_path, tone, model):
        Image.new("RGB", (512, 640), (128, 140, 150)).save(tmp_path / "wall.png")
        out = tmp_path / "out.mp4"
        code, _, err = avatar(
            "speak", "--portrait", tmp_path / "wall.png", "--audio", tone, "--model", model, "--out", out
        )
        assert code == 2 and "Traceback" not in err and not out.exists()
        last = err.strip().splitlines()[-1]
        assert last.startswith(f"error: {tmp_path / 'wall.png'}: ") and "expected" in last and "found" in last

    @pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (44100, 2), (48000, 1)])
    def test_rates_and_stereo_just_work(self, avatar, tmp_path, person, model, rate, channels):
        t = np.arange(int(rate * 0.6)) / rate
        samples = (np.sin(2 * np.pi * 200 * t) * 9000).astype("<i2")
        with wave.open(str(tmp_path / "a.wav"), "wb") as file:
            file.setparams((channels, 2, rate, 0, "NONE", ""))
            file.writeframes(np.repeat(samples, channels).tobytes())
        out = tmp_path / "out.mp4"
        code, text, err = avatar(
            "speak",
            "--avatar",
            person,
            "--audio",
            tmp_path / "a.wav",
            "--model",
            model,
            "--out",
            out,
            "--size",
            128,
        )
        assert code == 0, err
        assert "real-time factor" in text and seconds(out) == pytest.approx(0.6)

    def test_silence_and_a_tenth_of_a_second_just_work(self, avatar, tmp_path, person, model):
        for length in (1600, 16000):
            write_wav(tmp_path / "a.wav", np.zeros(length))
            out = tmp_path / f"{length}.mp4"
            code, _, err = avatar(
                "speak",
                "--avatar",
                person,
                "--audio",
                tmp_path / "a.wav",
                "--model",
                model,
                "--out",
                out,
                "--size",
                128,
            )
            assert code == 0, err
            assert seconds(out) == pytest.approx(np.ceil(length / 640) / 25)

    def test_an_hour_can_be_given(self, avatar, tmp_path, person, model):
        with wave.open(str(tmp_path / "hour.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            for _ in range(60):
                file.writeframes(bytes(8000 * 60 * 2))
        assert len(read_audio(tmp_path / "hour.wav")) == 3600 * 16000
        out = tmp_path / "out.mp4"
        code, _, err = avatar(
            "speak",
            "--avatar",
            person,
            "--audio",
            tmp_path / "hour.wav",
            "--model",
            model,
            "--out",
            out,
            "--size",
            128,
            "--preview",
            0.4,
        )
        assert code == 0, err
        assert seconds(out) == pytest.approx(0.4)

    def test_same_input_same_video(self, avatar, tmp_path, person, model, tone):
        for name in ("a", "b"):
            code, _, err = avatar(
                "speak",
                "--avatar",
                person,
                "--audio",
                tone,
                "--model",
                model,
                "--out",
                tmp_path / f"{name}.mp4",
                "--size",
                128,
            )
            assert code == 0, err
        assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()

    def test_damaged_model_and_avatar(self, avatar, tmp_path, person, model, tone):
        bad = tmp_path / "student.safetensors"
        bad.write_bytes(model.read_bytes()[:-1] + b"x")
        bad.with_suffix(".json").write_bytes(model.with_suffix(".json").read_bytes())
        assert_refused(
            avatar("speak", "--avatar", person, "--audio", tone, "--model", bad, "--out", "out.mp4"),
            str(bad),
            "SHA-256",
        )
        assert_refused(
            avatar("speak", "--avatar", tmp_path, "--audio", tone, "--model", model, "--out", "out.mp4"),
            "avatar.safetensors",
        )
        assert load_student(model).codec.n_particles > 0
        assert not (tmp_path / "out.mp4").exists()

    def test_text_in_another_language_and_inspect(self, smoke, tmp_path, person):
        run = [sys.executable, "-m", "avatar_core.cli"]
        made = smoke.run(
            *run,
            "speak",
            "--avatar",
            "person",
            "--text",
            "Guten Tag.",
            "--language",
            "de",
            "--out",
            "hallo.mp4",
            "--size",
            "128",
        )
        assert made.returncode == 0 and "real-time factor" in made.stdout, made.stderr
        assert seconds(smoke.root / "hallo.mp4") > 0.4
        for stage in ("identities", "speech", "teacher", "fit", "distill", "evaluate", "report"):
            shown = smoke.run(*run, "inspect", stage, "--no-open")
            assert shown.returncode == 0 and shown.stdout, shown.stderr
        clip = next((smoke.root / "data/teacher").rglob("*.mp4")).stem
        assert clip in smoke.run(*run, "inspect", "teacher", clip, "--no-open").stdout.replace("\n", "")
        refused = smoke.run(*run, "inspect", "teacher", "nobody", "--no-open")
        assert refused.returncode == 2 and "nobody" in refused.stderr

    def test_stage_refuses_damaged_store_and_bad_params(self, smoke):
        store = next((smoke.root / "data/fit/shard-0").rglob("trajectories.zarr"))
        victim = sorted(p for p in (store / "mean_offset" / "c").rglob("*") if p.is_file())[0]
        content = victim.read_bytes()
        params = (smoke.root / "params.yaml").read_text()
        embed = [sys.executable, "-m", "stages.embed", "--params", "broken.yaml"]
        try:
            (smoke.root / "broken.yaml").write_text(params.replace("patch:", "path:"))
            refused = smoke.run(*embed)
            assert (
                refused.returncode == 2
                and "embed.path" in refused.stderr
                and "Traceback" not in refused.stderr
            )
            (smoke.root / "broken.yaml").write_text(params)
            victim.unlink()
            refused = smoke.run(*embed)
            assert refused.returncode == 2 and str(victim.relative_to(smoke.root)) in refused.stderr, (
                refused.stderr
            )
            assert "Traceback" not in refused.stderr
        finally:
            victim.write_bytes(content)
            (smoke.root / "broken.yaml").unlink()
            smoke.run("dvc", "checkout", "--force")
