"""Speech: sentences -> 16 kHz audio with phoneme timings, by eSpeak NG (in a process of its own) or from a folder."""

from avatar_core.speech.espeak import clean_text, synthesize
from avatar_core.speech.folder import list_recordings, read_recording
from avatar_core.speech.scripts import Line, load_scripts
from avatar_core.speech.types import Phoneme, Speech, phonemes_from_json, phonemes_to_json
from avatar_core.speech.voices import LANGUAGES, SPLITS, VOICES, Voice, find_voice, voice_names

__all__ = [
    "LANGUAGES",
    "SPLITS",
    "VOICES",
    "Line",
    "Phoneme",
    "Speech",
    "Voice",
    "clean_text",
    "find_voice",
    "list_recordings",
    "load_scripts",
    "phonemes_from_json",
    "phonemes_to_json",
    "read_recording",
    "synthesize",
    "voice_names",
]
