"""Languages and speakers of the espeak backend.

A speaker is an eSpeak NG voice variant with its own pitch; it can speak every language. Speakers are split so that
those heard in training, validation, test and by the critics (the evaluation's instruments) have nobody in common.
"""

from __future__ import annotations

from dataclasses import dataclass

from avatar_core.errors import UserError

SPLITS = ("train", "val", "test", "critics")

DEFAULT_VOICE = "otto"


@dataclass(frozen=True)
class Language:
    """`base`: the synthesiser's own voice of the language; `text`: what a text must be written in to be read aright."""

    name: str
    base: str
    text: str = "Latin letters, with their accents"


LANGUAGES = {
    "en": Language("English", "en-us"),
    "de": Language("German", "de"),
    "es": Language("Spanish", "es"),
    "fr": Language("French", "fr"),
    "cmn": Language("Mandarin", "cmn", "Chinese characters, or pinyin with numbers: ni3 hao3"),
    "it": Language("Italian", "it"),
    "pt": Language("Portuguese", "pt"),
}


@dataclass(frozen=True)
class Voice:
    """A speaker: `variant` is eSpeak NG's name for the timbre, `pitch` and `pitch_range` are its 0..99 settings."""

    name: str
    variant: str
    sex: str
    split: str
    pitch: int = 50
    pitch_range: int = 50


VOICES = {
    voice.name: voice
    for voice in (
        Voice("otto", "m1", "male", "train", 50),
        Voice("luis", "m3", "male", "train", 54, 60),
        Voice("noah", "m7", "male", "train", 44),
        Voice("alan", "Alex", "male", "train", 56, 55),
        Voice("enzo", "Mario", "male", "train", 48, 45),
        Voice("ines", "f1", "female", "train", 50),
        Voice("lena", "f2", "female", "train", 52, 60),
        Voice("rosa", "f4", "female", "train", 46),
        Voice("yuna", "linda", "female", "train", 48, 45),
        Voice("hugo", "m2", "male", "val", 50),
        Voice("marta", "f5", "female", "val", 50),
        Voice("karl", "m4", "male", "test", 52),
        Voice("ivan", "boris", "male", "test", 46, 55),
        Voice("clara", "f3", "female", "test", 50),
        Voice("wilma", "aunty", "female", "test", 52, 45),
        Voice("adrian", "adam", "male", "critics", 50),
        Voice("leon", "Lee", "male", "critics", 52, 55),
        Voice("malik", "max", "male", "critics", 46),
        Voice("anna", "Annie", "female", "critics", 50),
        Voice("bella", "belinda", "female", "critics", 48, 55),
    )
}


def voice_names(split: str | None = None, sex: str | None = None) -> list[str]:
    """Speakers of a split ("train", "val", "test", "critics"; None = all) and sex ("male", "female"; None = both).

    Raises:
        UserError: unknown split or sex.
    """
    if split is not None and split not in SPLITS:
        raise UserError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")
    if sex not in (None, "male", "female"):
        raise UserError(f"sex: expected male or female, found {sex!r}")
    return [v.name for v in VOICES.values() if split in (None, v.split) and sex in (None, v.sex)]


def find_voice(name: str) -> Voice:
    """The speaker called `name`. Raises UserError when there is none."""
    if name not in VOICES:
        raise UserError(f"voice: expected one of {', '.join(VOICES)}, found {name!r}")
    return VOICES[name]


def espeak_voice(language: str, voice: Voice) -> str:
    """The synthesiser's own name, such as "en-us+m3". Raises UserError for an unknown language."""
    if language not in LANGUAGES:
        raise UserError(f"language: expected one of {', '.join(LANGUAGES)}, found {language!r}")
    return f"{LANGUAGES[language].base}+{voice.variant}"
