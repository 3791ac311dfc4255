"""The real command in this process, and an avatar of an unseen person for it to drive."""

import sys

import numpy as np
import pytest

from avatar_core import cli
from avatar_core.io.audio import write_wav


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


@pytest.fixture
def tone(tmp_path):
    """A second of a steady tone."""
    path = tmp_path / "in" / "tone.wav"
    write_wav(path, 0.3 * np.sin(np.arange(16000) * 0.2))
    return path


@pytest.fixture
def model(smoke):
    """The trained student."""
    return smoke.root / "data/distill/student.safetensors"


@pytest.fixture(scope="session")
def person(smoke):
    """An avatar folder made by the real command from an unseen person's portrait."""
    portraits = sorted((smoke.root / "data/identities/portraits").glob("*.png"))
    command = ["personalise", "--portrait", str(portraits[-1]), "--out", "person"]
    result = smoke.run(sys.executable, "-m", "avatar_core.cli", *command)
    assert result.returncode == 0, result.stderr
    return smoke.root / "person"


@pytest.fixture
def speak(avatar, person, model, tmp_path):
    """`speak(audio, *options, out="out.mp4")` -> (video, stdout): a small video of `person`, which must succeed."""

    def run(audio, *options, out="out.mp4"):
        video = tmp_path / out
        source = ["--avatar", person, "--audio", audio, "--model", model]
        code, text, err = avatar("speak", *source, "--out", video, "--size", 128, *options)
        assert code == 0, err
        return video, text

    return run
