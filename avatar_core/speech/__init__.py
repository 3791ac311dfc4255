"""Speech: sentences -> 16 kHz audio, with phoneme times where they are known. A backend is one file here and one line below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from avatar_core.speech.scripts import Line, RecordedClip, load_scripts
from avatar_core.speech.types import Phoneme, Speech, phonemes_from_json, phonemes_to_json
from avatar_core.speech.voices import LANGUAGES, SPLITS, VOICES, Voice, find_voice, voice_names

if TYPE_CHECKING:
    from avatar_core.device import Compute
    from avatar_core.models.card import Card

BACKENDS = {
    "espeak": "avatar_core.speech.espeak_source:EspeakSpeech",
    "folder": "avatar_core.speech.folder:FolderSpeech",
    "coqui": "avatar_core.speech.coqui:CoquiSpeech",
}


class SentenceSource(Protocol):
    """Where sentences and their speakers come from. `provides` "phonemes" when each `Speech` has their times."""

    @property
    def provides(self) -> frozenset[str]: ...
    @property
    def needs(self) -> frozenset[str]: ...

    def lines(self, wanted: Mapping[str, int]) -> list[Line]:
        """What can be said, by split ("train", "val", "test"); no sentence is in two.

        wanted: how many sentences of each split will be said. With fewer lines some are said again, none at all is a UserError.
        """
        ...

    def voices(self, split: str, sex: str | None) -> list[str]:
        """Names of the speakers of a split, of one sex where it is known; at least one."""
        ...


class SpeechBackend(SentenceSource, Protocol):
    """Sentences that are spoken one by one, in the stage's workers."""

    def speak(self, line: Line, voice: str) -> Speech:
        """The sound of one sentence; the same bytes every time."""
        ...


@runtime_checkable
class VoiceModel(SentenceSource, Protocol):
    """Sentences spoken by a published model, which is loaded once."""

    @property
    def card(self) -> Card: ...

    def spoken(self, sentences: Sequence[tuple[Line, str]], compute: Compute) -> Iterator[Speech]:
        """Each (sentence, voice) in order. UserError before the model is loaded."""
        ...


@runtime_checkable
class RecordedSpeech(Protocol):
    """A backend whose sentences may have been said already, by one of the run's people before a camera."""

    def recorded(self) -> list[RecordedClip]:
        """Who says what in which framing; [] where sentences are free to be dealt."""
        ...


__all__ = [
    "BACKENDS",
    "LANGUAGES",
    "SPLITS",
    "VOICES",
    "Line",
    "Phoneme",
    "RecordedClip",
    "RecordedSpeech",
    "SentenceSource",
    "Speech",
    "SpeechBackend",
    "Voice",
    "VoiceModel",
    "find_voice",
    "load_scripts",
    "phonemes_from_json",
    "phonemes_to_json",
    "voice_names",
]
