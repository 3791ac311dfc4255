"""Text that cannot be spoken is refused in one line; text in another language is spoken."""

import sys

import pytest

from avatar_core.speech.voices import LANGUAGES, VOICES
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


class TestVoices:
    def test_every_voice_and_language_is_listed_in_80_columns(self, avatar):
        code, out, _ = avatar("voices")
        lines = out.splitlines()
        assert code == 0 and max(map(len, lines)) <= 80
        voices = {tuple(line.split()[:3]) for line in lines}
        assert {(v.name, v.sex, v.split) for v in VOICES.values()} <= voices
        assert {(code, language.name) for code, language in LANGUAGES.items()} <= {v[:2] for v in voices}
        assert any("pinyin" in line for line in lines) and any("espeakng-loader" in line for line in lines)
        assert sum("the default" in line for line in lines) == 1

    def test_they_are_chosen_by_split_and_sex(self, avatar):
        _, out, _ = avatar("voices", "--split", "val", "--sex", "female")
        listed = {line.split()[0] for line in out.splitlines() if line} & VOICES.keys()
        assert listed == {"marta"} and out.startswith("1 voice ")
        assert_refused(avatar("voices", "--sex", "x"), "male or female")
        assert_refused(avatar("voices", "--split", "tset"), "critics")


class TestWithStudent:
    pytestmark = WITH_STUDENT

    def test_text_in_another_language(self, smoke, person):
        """In a process of its own and in the project's folder, where the model is found without being named."""
        words = ["--text", "Guten Tag.", "--language", "de"]
        arguments = ["--avatar", person.name, *words, "--out", "hallo.mp4", "--size", "128"]
        made = smoke.run(sys.executable, "-m", "avatar_core.cli", "speak", *arguments)
        assert made.returncode == 0 and "real-time factor" in made.stdout, made.stderr
        assert seconds(smoke.root / "hallo.mp4") > 0.4
