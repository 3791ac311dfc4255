"""Recordings with their times: written and read back, damaged ones named, a folder of them listed."""

import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio, write_wav
from avatar_core.speech import phonemes_from_json, phonemes_to_json
from avatar_core.speech.espeak import synthesize
from avatar_core.speech.folder import list_recordings, read_recording

pytest.importorskip("espeakng_loader", reason="espeakng_loader is not installed (extra `espeak`)")
TEXT = "Bob may push the big paper map."


def test_json_and_wav_bring_the_speech_back(tmp_path):
    speech = synthesize(TEXT)
    write_wav(tmp_path / "a.wav", speech.audio)
    (tmp_path / "a.json").write_text(phonemes_to_json(speech), encoding="utf-8")
    audio = read_audio(tmp_path / "a.wav")
    assert audio.tobytes() == speech.audio.tobytes()
    back = phonemes_from_json(tmp_path / "a.json", audio)
    assert (back.text, back.language, back.voice) == (speech.text, "en", "otto")
    assert [p.ipa for p in back.phonemes] == [p.ipa for p in speech.phonemes]
    assert [p.start_s for p in back.phonemes] == pytest.approx([p.start_s for p in speech.phonemes], abs=1e-6)
    read = read_recording(tmp_path / "a.wav")
    assert read.phonemes == back.phonemes and read.audio.tobytes() == speech.audio.tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "JSON"),
        ('{"phonemes": 3}', "list"),
        ('[{"start_s": 0}]', r"phonemes\[0\]"),
        ('[{"start_s": "a", "end_s": 1, "ipa": "p"}]', "seconds"),
        ('[{"start_s": 1, "end_s": 0.5, "ipa": "p"}]', "start_s <= end_s"),
        (
            '[{"start_s": 0, "end_s": 0.5, "ipa": "p"}, {"start_s": 0.1, "end_s": 0.6, "ipa": "a"}]',
            "before the end",
        ),
        ('[{"start_s": 0, "end_s": 99, "ipa": "p"}]', "within"),
    ],
)
def test_bad_phoneme_files(tmp_path, content, message):
    write_wav(tmp_path / "a.wav", np.zeros(6400, np.float32))
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_recording(tmp_path / "a.wav")


def test_folder_lists_sounds(tmp_path):
    with pytest.raises(UserError, match="folder"):
        list_recordings(tmp_path / "none")
    with pytest.raises(UserError, match="found none"):
        list_recordings(tmp_path)
    for name in ("b.wav", "a.wav"):
        write_wav(tmp_path / name, np.zeros(1000, np.float32))
    (tmp_path / "a.txt").write_text("Hello\nBob.")
    assert [p.name for p in list_recordings(tmp_path)] == ["a.wav", "b.wav"]
    speech = read_recording(tmp_path / "a.wav", "en")
    assert speech.text == "Hello Bob." and len(speech.audio) == 1280 and speech.phonemes == []
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    with pytest.raises(UserError, match="one sound named 'a'"):
        list_recordings(tmp_path)
