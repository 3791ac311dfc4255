"""Arguments, models, avatars, stores and parameters that are absent, mistaken or damaged; and looking at intact ones."""

import os
import sys

import numpy as np
import pytest

from avatar_core.speak.avatar import load_avatar
from avatar_core.speak.student import load_student
from tests.cli.commands import WITH_STUDENT, assert_refused, picture, seconds
from tests.io.foreign import ffmpeg


def test_unusable_output_and_missing_model(avatar, tmp_path, tone):
    portrait = picture(tmp_path / "p.png")
    assert_refused(avatar("speak", "-p", portrait, "-a", tone, "-o", "out.avi"), "out.avi", ".mp4")
    refused = avatar(
        "speak", "-p", portrait, "-a", tone, "-o", "out.mp4", "--model", "my/student.safetensors"
    )
    assert_refused(refused, "my/student.safetensors", "dvc repro")
    assert_refused(avatar("speak", "-a", tone, "-o", "out.mp4"), "--portrait and --avatar", "neither")
    assert_refused(avatar("profile", "show"), "dvc.yaml")
    assert sorted(os.listdir(tmp_path)) == ["in", "p.png"]


@pytest.mark.parametrize("out", ["note.txt/out.mp4", "x" * 300 + ".mp4", "in/tone.mp4"])
def test_out_is_tried_before_anything_is_read(avatar, tmp_path, out):
    (tmp_path / "note.txt").write_text("mine")
    sound = tmp_path / "in" / "tone.mp4"
    sound.parent.mkdir()
    sound.write_bytes(b"a video that would be replaced")
    refused = avatar("speak", "-p", "absent.png", "-a", sound, "-o", tmp_path / out)
    assert_refused(refused, str(tmp_path / out))
    assert sound.read_bytes().startswith(b"a video") and sorted(os.listdir(tmp_path)) == ["in", "note.txt"]


def test_what_the_system_refuses_is_one_line(avatar, tmp_path, monkeypatch):
    portrait = picture(tmp_path / "p.png")

    def no_more(*_, **__):
        raise OSError(28, "No space left on device", "/tmp/somewhere")

    monkeypatch.setattr("avatar_core.io.images.read_image", no_more)
    assert_refused(
        avatar("personalise", "-p", portrait, "-o", "me"), "/tmp/somewhere", "No space left on device"
    )


def test_one_bad_portrait_among_several_is_named_and_nothing_is_written(avatar, tmp_path):
    good, bad, other = picture(tmp_path / "a.png"), tmp_path / "b.png", tmp_path / "in" / "a.jpg"
    bad.write_text("not a picture")
    assert_refused(avatar("personalise", "-p", good, "-p", bad, "-o", "both"), "b.png", "13 bytes")
    assert_refused(avatar("personalise", "-p", good, "-p", other, "-o", "both"), "a twice")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]


def test_a_warning_is_one_line(avatar, tmp_path):
    path = tmp_path / "voice.wav"
    ffmpeg("-f", "lavfi", "-i", "aevalsrc='sin(900*t)|-sin(900*t)':d=0.5", path)
    portrait = picture(tmp_path / "p.png")
    code, _, err = avatar("speak", "-p", portrait, "-a", path, "-o", "out.mp4", "--model", "no.safetensors")
    first, second = err.strip().splitlines()
    assert first.startswith(f"warning: {path}: its two channels cancel")
    assert second.startswith("error: no.safetensors")
    assert code == 2


@pytest.mark.parametrize(
    "arguments",
    [["personalise"], ["export", "--format", "ply-sequence", "--text", "Hello."]],
    ids=lambda a: a[0],
)
def test_a_folder_that_holds_something_else_is_refused_and_kept(avatar, tmp_path, arguments):
    folder, portrait = tmp_path / "photos", picture(tmp_path / "p.png")
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    assert_refused(avatar(*arguments, "-p", portrait, "-o", folder), str(folder), "thesis.txt")
    assert (folder / "thesis.txt").read_text() == "years of work" and os.listdir(folder) == ["thesis.txt"]


def test_usage_mistakes_also_end_with_2(avatar):
    for arguments in (["speak"], ["dance"], ["speak", "--seed", "x"], ["profile", "use"]):
        code, _, err = avatar(*arguments)
        assert code == 2 and "Traceback" not in err
    code, out, _ = avatar("--help")
    assert code == 0 and all(c in out for c in ("speak", "personalise", "export", "inspect", "profile"))


class TestWithStudent:
    pytestmark = WITH_STUDENT

    def test_damaged_model_and_avatar(self, avatar, tmp_path, person, model, tone):
        bad = tmp_path / "student.safetensors"
        bad.write_bytes(model.read_bytes()[:-1] + b"x")
        bad.with_suffix(".json").write_bytes(model.with_suffix(".json").read_bytes())
        for folder, student, words in (
            (person, bad, [str(bad), "SHA-256"]),
            (tmp_path, model, ["avatar.safetensors"]),
        ):
            arguments = ["--avatar", folder, "--audio", tone, "--model", student, "--out", "out.mp4"]
            assert_refused(avatar("speak", *arguments), *words)
        assert load_student(model).codec.n_particles > 0
        assert not (tmp_path / "out.mp4").exists()

    def test_without_a_run_the_student_that_comes_with_the_program_speaks(self, avatar, smoke, tone):
        portrait = sorted((smoke.root / "data/identities/portraits").glob("*.png"))[-1]
        code, out, err = avatar("speak", "-p", portrait, "-a", tone, "-o", "out.mp4", "--size", 128)
        assert code == 0, err
        assert "no data/distill/student.safetensors here: taking the student that comes with" in err
        assert "1.00 s of video" in out and seconds("out.mp4") == 1

    def test_several_portraits_and_an_earlier_avatar_is_replaced(
        self, avatar, tmp_path, smoke, person, model
    ):
        portraits = sorted((smoke.root / "data/identities/portraits").glob("*.png"))
        first, last = portraits[0], portraits[-1]
        both = ["-p", first, "-p", last, "-o", tmp_path / "us"]
        for arguments in (both, ["-p", last, "-o", tmp_path / "us" / last.stem]):
            code, out, err = avatar("personalise", *arguments, "--model", model)
            assert code == 0 and last.stem in out, err
        assert sorted(os.listdir(tmp_path / "us")) == [first.stem, last.stem]
        ours, alone = (load_avatar(folder)[1] for folder in (tmp_path / "us" / last.stem, person))
        np.testing.assert_allclose(ours.means, alone.means, atol=1e-4)
        assert len(load_avatar(tmp_path / "us" / first.stem)[1]) > 1000

    def test_personalise_makes_the_avatar_of_the_fit_byte_for_byte(self, person, smoke):
        """`person` is made by the command in a process of its own; its settings are those in the student's file."""
        portrait = sorted((smoke.root / "data/identities/portraits").glob("*.png"))[-1]
        fitted = next((smoke.root / "data/fit").glob(f"shard-*/canonical/{portrait.stem}.safetensors"))
        assert (person / "avatar.safetensors").read_bytes() == fitted.read_bytes()

    def test_inspect(self, smoke):
        def inspect(*names):
            return smoke.run(sys.executable, "-m", "avatar_core.cli", "inspect", *names, "--no-open")

        for stage in ("identities", "fit", "report"):
            shown = inspect(stage)
            assert shown.returncode == 0 and shown.stdout, shown.stderr
        clip = next((smoke.root / "data/teacher").rglob("*.mp4")).stem
        assert clip in inspect("teacher").stdout and clip in inspect("teacher", clip).stdout
        assert "ground_truth" in inspect("evaluate", "--details").stdout
        refused = inspect("teacher", "nobody")
        assert refused.returncode == 2 and "nobody" in refused.stderr

    def test_stage_refuses_damaged_store_and_bad_params(self, smoke):
        store = next((smoke.root / "data/fit/shard-0").rglob("trajectories.zarr"))
        victim = sorted(p for p in (store / "mean_offset" / "c").rglob("*") if p.is_file())[0]
        content = victim.read_bytes()
        broken, params = smoke.root / "broken.yaml", (smoke.root / "params.yaml").read_text()

        def refused_by_embed(text):
            broken.write_text(text)
            result = smoke.run(sys.executable, "-m", "stages.embed", "--params", broken.name)
            assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
            return result.stderr

        try:
            assert "embed.contrastive.path" in refused_by_embed(params.replace("patch:", "path:"))
            victim.unlink()
            assert str(victim.relative_to(smoke.root)) in refused_by_embed(params)
        finally:
            victim.write_bytes(content)
            broken.unlink()
            smoke.run("dvc", "checkout", "--force")
