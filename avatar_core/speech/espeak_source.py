"""Speech backend `espeak`: the scripts of data/scripts, spoken by eSpeak NG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np

from avatar_core.config import list_of, ranged
from avatar_core.errors import UserError
from avatar_core.models.card import Card, failures, need_packages
from avatar_core.speech.scripts import Line, load_scripts
from avatar_core.speech.types import Speech
from avatar_core.speech.voices import voice_names

SCRIPTS = Path("data/scripts")


def script_lines(languages: Sequence[str], wanted: Mapping[str, int]) -> list[Line]:
    """All sentences of the scripts in some languages. Raises UserError when a wanted split has none."""
    lines = [line for line in load_scripts(SCRIPTS) if line.language in languages]
    for split in wanted:
        if not any(line.split == split for line in lines):
            raise UserError(
                f"{SCRIPTS}: expected sentences marked `{split}` in {list(languages)}, found none"
            )
    return lines


@dataclass(frozen=True)
class EspeakSpeech:
    """languages: of the scripts to be spoken; rate: words a minute, of training sentences up to `rate_spread` of it more or less.

    Splits share neither sentences nor speakers.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"phonemes"})
    needs: ClassVar[frozenset[str]] = frozenset()
    languages: list[str] = list_of("en", "de", "es", "fr", "cmn")
    rate: int = ranged(165, 100, 300)
    rate_spread: float = ranged(0.2, 0, 0.2)

    @property
    def card(self) -> Card:
        return Card(
            "eSpeak NG", "GPL-3.0", "yes", "a separate program; what it says is not covered by its licence"
        )

    def folders(self) -> dict[Path, str]:
        """None: it comes as a package."""
        return {}

    def lacking(self) -> list[str]:
        """See `models.card.Published`."""
        return failures(lambda: need_packages("speech.espeak", "espeak", "espeakng_loader"))

    def lines(self, wanted: Mapping[str, int]) -> list[Line]:
        """All sentences of the scripts in these languages."""
        return script_lines(self.languages, wanted)

    def voices(self, split: str, sex: str | None) -> list[str]:
        """The speakers of a split."""
        return voice_names(split, sex)

    def speak(self, line: Line, voice: str) -> Speech:
        """Synthesised in a worker process; raises UserError when eSpeak NG is not installed.

        Training sentences differ in rate and, from word to word, in effort, as their voice and text decide.
        """
        from avatar_core.speech.effort import with_effort
        from avatar_core.speech.espeak import synthesize

        if line.split != "train":
            return synthesize(line.text, line.language, voice, rate=self.rate)
        rng = np.random.default_rng(list(sha256(f"{voice} {line.text}".encode()).digest()))
        rate = round(self.rate * (1 + self.rate_spread * rng.uniform(-1, 1)))
        speech = synthesize(line.text, line.language, voice, rate=rate)
        return replace(speech, audio=with_effort(speech.audio, rng))
