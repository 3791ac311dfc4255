"""Speech backend `folder`: recordings the user brings.

name.wav                 the sound: WAV, FLAC, MP3, Ogg, Opus or M4A, of any rate and any channels
name.txt                 optional: what is said
name.json                optional: phoneme timings, [{"start_s", "end_s", "ipa", "stress"}, ...]
clips.json               optional, written by `avatar ingest`: who says each recording, [{"clip", "person", "framing"}, ...]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avatar_core.clock import pad_to_frames
from avatar_core.config import given
from avatar_core.errors import UserError
from avatar_core.speech.scripts import Line, RecordedClip
from avatar_core.speech.types import Speech, phonemes_from_json

_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")
PLAN = "clips.json"


@dataclass(frozen=True)
class FolderSpeech:
    """Recordings of `path`, each in one split: by name, the last are for test, those before for val.

    phonemes: a name.json lies beside every recording, so that teachers that need phoneme times can be used.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    path: str = given("a folder of recordings")
    phonemes: bool = False

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"phonemes"} if self.phonemes else ())

    def lines(self, wanted: Mapping[str, int]) -> list[Line]:
        """One line a recording, its file's name as text. Raises UserError when they are too few, or lack their times."""
        names = [path.name for path in list_recordings(self.path)]
        kept = {split: wanted.get(split, 0) for split in ("val", "test")}
        if len(names) <= sum(kept.values()):
            raise UserError(
                f"{self.path}: expected more recordings than the {kept['val']} val and {kept['test']} test sentences, "
                f"found {len(names)}"
            )
        for path in (Path(self.path, name) for name in names if self.phonemes):
            if not path.with_suffix(".json").is_file():
                raise UserError(
                    f"{path.with_suffix('.json')}: expected phoneme times as speech.folder.phonemes says, found no such file"
                )
        first_val = len(names) - sum(kept.values())
        splits = ["train"] * first_val + ["val"] * kept["val"] + ["test"] * kept["test"]
        return [Line("", split, name) for split, name in zip(splits, names, strict=True)]

    def recorded(self) -> list[RecordedClip]:
        """What clips.json says. Raises UserError when it is damaged or one of its sounds is missing."""
        path = Path(self.path, PLAN)
        if not path.is_file():
            return []
        try:
            clips = [RecordedClip(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
        except (ValueError, TypeError):
            raise UserError(
                f"{path}: expected a list of clip, person and framing, found something else; run `avatar ingest` again"
            ) from None
        for clip in clips:
            if not Path(self.path, f"{clip.clip}.wav").is_file():
                raise UserError(
                    f"{path}: expected the sound of {clip.clip} beside it, found no {clip.clip}.wav"
                )
        return clips

    def voices(self, split: str, sex: str | None) -> list[str]:
        """Recordings bring their own: the voice that name.json gives, else the recording's name."""
        return [""]

    def speak(self, line: Line, voice: str) -> Speech:
        """Read the recording that `line` names."""
        return read_recording(Path(self.path, line.text))


def list_recordings(folder: Path | str) -> list[Path]:
    """Sound files of `folder`, sorted by name. Raises UserError when the folder or any sound is missing."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of recordings, found none")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not paths:
        raise UserError(f"{folder}: expected recordings ({', '.join(_SUFFIXES)}), found none")
    stems = [p.stem for p in paths]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UserError(f"{folder}: expected one sound named {stem!r}, found several")
    return paths


def read_recording(path: Path | str, language: str = "", voice: str = "") -> Speech:
    """One recording with what lies beside it; `phonemes` is empty where no .json is given.

    Raises:
        UserError: the sound or the files beside it cannot be read.
    """
    from avatar_core.io.audio import read_audio

    path = Path(path)
    audio = pad_to_frames(read_audio(path))
    timings, words = path.with_suffix(".json"), path.with_suffix(".txt")
    speech = Speech(audio, [], "", language, voice)
    if timings.exists():
        speech = phonemes_from_json(timings, audio)
        if speech.phonemes and speech.phonemes[-1].end_s > speech.duration_s + 0.1:
            raise UserError(
                f"{timings}: expected phonemes within the {speech.duration_s:.2f} s of sound, "
                f"found one ending at {speech.phonemes[-1].end_s:.2f} s"
            )
    text = speech.text
    if words.exists():
        try:
            text = " ".join(words.read_text(encoding="utf-8").split())
        except UnicodeDecodeError:
            raise UserError(f"{words}: expected UTF-8 text, found something else") from None
    return Speech(
        audio, speech.phonemes, text, speech.language or language, speech.voice or voice or path.stem
    )
