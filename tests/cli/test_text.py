"""Text that cannot be spoken is refused in one line; text in another language is spoken."""

import sys

import pytest

from tests.cli.commands import WITH_STUDENT, assert_refused, picture, seconds


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


class TestWithStudent:
    pytestmark = WITH_STUDENT

    def test_text_in_another_language(self, smoke, person):
        """In a process of its own and in the project's folder, where the model is found without being named."""
        words = ["--text", "Guten Tag.", "--language", "de"]
        arguments = ["--avatar", person.name, *words, "--out", "hallo.mp4", "--size", "128"]
        made = smoke.run(sys.executable, "-m", "avatar_core.cli", "speak", *arguments)
        assert made.returncode == 0 and "real-time factor" in made.stdout, made.stderr
        assert seconds(smoke.root / "hallo.mp4") > 0.4
