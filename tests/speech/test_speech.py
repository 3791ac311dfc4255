"""Speech: bit-identical synthesis, timings, voices, scripts, bad text, folder backend."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.speech import (
    LANGUAGES,
    SPLITS,
    VOICES,
    load_scripts,
    voice_names,
)
from avatar_core.speech import espeak as espeak_module
from avatar_core.speech.effort import with_effort
from avatar_core.speech.espeak import CLOSURE_S, clean_text, synthesize
from avatar_core.speech.espeak_source import EspeakSpeech
from avatar_core.speech.scripts import Line
from avatar_core.speech.voices import espeak_voice, find_voice

pytest.importorskip("espeakng_loader", reason="espeakng_loader is not installed (extra `espeak`)")

ROOT = Path(__file__).resolve().parents[2]
TEXT = "Bob may push the big paper map."
WORKER = ROOT / "avatar_core" / "speech" / "espeak_worker.py"


def _digest(speech) -> str:
    return hashlib.sha256(speech.audio.tobytes() + repr(speech.phonemes).encode()).hexdigest()


def test_same_bytes_whatever_was_said_before():
    first = synthesize(TEXT)
    synthesize("Something else entirely.", "en", "clara", rate=190)
    synthesize("Guten Morgen.", "de", "karl")
    assert _digest(synthesize(TEXT)) == _digest(first)


def test_same_bytes_in_another_process():
    code = (
        f"import hashlib; from avatar_core.speech.espeak import synthesize; s = synthesize({TEXT!r});"
        "print(hashlib.sha256(s.audio.tobytes() + repr(s.phonemes).encode()).hexdigest())"
    )
    environment = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONHASHSEED="7")
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert seen == {_digest(synthesize(TEXT)) + "\n"}


def test_audio_and_timings_fit():
    speech = synthesize(TEXT, lead_s=0.2, tail_s=0.3)
    assert speech.audio.dtype == np.float32 and len(speech.audio) % 640 == 0
    assert speech.num_frames * 640 == len(speech.audio)
    assert 0.1 < np.abs(speech.audio).max() <= 1.0
    times = [(p.start_s, p.end_s) for p in speech.phonemes]
    assert times[0][0] == 0.0 and times[-1][1] == pytest.approx(speech.duration_s)
    assert all(a[1] == pytest.approx(b[0]) for a, b in zip(times, times[1:], strict=False))
    assert all(start <= end for start, end in times)
    ipa = [p.ipa for p in speech.phonemes]
    assert "".join(ipa).count("p") == 4 and sum(p.stress for p in speech.phonemes) >= 4
    assert not any("ˈ" in symbol for symbol in ipa)
    # the lead-in is silence, and the first sound starts with it over
    assert np.all(speech.audio[: int(0.18 * 16000)] == 0)
    first = next(p for p in speech.phonemes if p.ipa)
    assert 0.2 - CLOSURE_S["b"] <= first.start_s < 0.3


def test_a_stop_starts_with_its_silent_closure_and_not_with_the_burst():
    speech = synthesize("A copper teapot kept upon a paper carpet.", "en", "otto")
    power = (speech.audio.reshape(-1, 160) ** 2).mean(1)  # in hundredths of a second
    loud = np.quantile(power, 0.9)
    stops = [p for p in speech.phonemes if p.ipa[:1] in "ptk" and p.ipa and p.start_s > 0.3]
    closed = [power[int(100 * p.start_s + 1) : int(100 * p.start_s + 4)].max() for p in stops]
    assert len(stops) >= 8 and np.median(closed) < 1e-2 * loud


def test_vowels_are_where_the_events_say():
    """Loudness inside vowels is well above loudness inside the closures of p."""
    speech = synthesize("A papa, a papa, a papa.")
    power = speech.audio.astype(np.float64) ** 2

    def level(ipa: str) -> float:
        spans = [(p.start_s, p.end_s) for p in speech.phonemes if p.ipa and p.ipa[0] == ipa]
        return float(np.mean([power[int(a * 16000) : int((a + b) / 2 * 16000)].mean() for a, b in spans]))

    assert level("ɑ") > 10 * level("p")


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages(language):
    text = {"cmn": "你好,我的朋友。"}.get(language, "Papa, mama, pomodoro.")
    speech = synthesize(text, language, "marta")
    assert sum(bool(p.ipa) for p in speech.phonemes) >= 8 and speech.language == language


def test_many_sentences_stay_in_step():
    """Phoneme times of a long text do not restart at each sentence."""
    speech = synthesize("One apple. Two pears! Three plums? " * 5)
    sounds = [p.start_s for p in speech.phonemes if p.ipa]
    assert sounds == sorted(sounds) and sounds[-1] > 0.85 * speech.duration_s


def test_voices_are_split_without_overlap():
    assert len(VOICES) >= 12
    named = [name for split in SPLITS for name in voice_names(split)]
    assert sorted(named) == sorted(VOICES)
    variants = [v.variant for v in VOICES.values()]
    assert len(set(variants)) == len(variants)
    for split in SPLITS:
        assert voice_names(split, "male") and voice_names(split, "female")


def test_every_voice_speaks_and_sounds_different():
    digests = {_digest(synthesize(TEXT, "en", name)) for name in VOICES}
    assert len(digests) == len(VOICES)


def test_pitch_and_rate_matter():
    assert synthesize(TEXT, rate=250).duration_s < synthesize(TEXT, rate=120).duration_s
    assert _digest(synthesize(TEXT, pitch=20)) != _digest(synthesize(TEXT, pitch=80))


@pytest.mark.parametrize("text", ["", "   \n\t", "\u200b"])
def test_empty_text(text):
    with pytest.raises(UserError, match="text: expected"):
        synthesize(text)


@pytest.mark.parametrize("text", ["😀🎉", "!!! ... ?", "🇩🇪 👍🏽"])
def test_unspeakable_text(text):
    with pytest.raises(UserError, match="letters or digits"):
        synthesize(text)


def test_emoji_beside_words_is_fine():
    assert synthesize("Hello 😀 Bob").duration_s > 0.5


def test_bad_arguments():
    with pytest.raises(UserError, match=r"language: expected one of .*'tlh'"):
        synthesize(TEXT, "tlh")
    with pytest.raises(UserError, match="voice: expected one of"):
        synthesize(TEXT, "en", "nobody")
    with pytest.raises(UserError, match="rate"):
        synthesize(TEXT, rate=5)
    with pytest.raises(UserError, match="pitch"):
        synthesize(TEXT, pitch=100)
    with pytest.raises(UserError, match="at most"):
        clean_text("a" * 20_001)
    with pytest.raises(UserError, match="split"):
        voice_names("dev")


def test_control_characters_and_markup_are_only_text():
    assert clean_text("a\x00b\x1b[31m\ud800") == "a b [31m"
    assert synthesize("[[p'a:]] <speak>hello</speak>").duration_s > 0.5


def test_missing_package_is_one_clear_line(tmp_path, monkeypatch):
    """A worker whose interpreter has no espeakng-loader says how to get it."""
    fake = tmp_path / "no_loader.py"
    fake.write_text(
        "import sys, runpy\nsys.modules['espeakng_loader'] = None\n"
        f"runpy.run_path({str(WORKER)!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(espeak_module, "_current", None)
    monkeypatch.setattr(espeak_module, "_WORKER", fake)
    with pytest.raises(UserError, match="pip install espeakng-loader"):
        synthesize(TEXT)


def test_long_data_path_is_shortened(tmp_path):
    """Beyond 160 characters eSpeak NG would look elsewhere: the worker links the folder to a short place."""
    import espeakng_loader

    deep = tmp_path / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    (deep / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
    fake = tmp_path / "deep.py"
    fake.write_text(
        "import runpy, espeakng_loader\n"
        f"espeakng_loader.get_data_path = lambda: {str(deep / 'espeak-ng-data')!r}\n"
        f"runpy.run_path({str(WORKER)!r}, run_name='__main__')\n"
    )
    request = json.dumps({"text": "Hello.", "voice": "en-us", "rate": 165, "pitch": 50, "range": 50}) + "\n"
    done = subprocess.run(
        [sys.executable, str(fake)], input=request, capture_output=True, text=True, timeout=60
    )
    hello, answer = (json.loads(line) for line in done.stdout.splitlines())
    assert hello == {"ready": True, "sample_rate": 22050} and len(answer["phonemes"]) >= 4


def test_worker_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "avatar_core.speech.espeak_worker"],
        input='{"probe": "de+f2"}\n{"probe": "xx-none"}\n',
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines == [{"ready": True, "sample_rate": 22050}, {"ok": True}, {"ok": False}]


def test_a_dead_worker_is_replaced():
    first = synthesize(TEXT)
    espeak_module._worker().close()
    assert _digest(synthesize(TEXT)) == _digest(first)


def test_the_library_does_not_load_the_gpl_code():
    code = "import sys, avatar_core.speech.espeak as s; s.synthesize('Hello.'); print('espeakng_loader' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_scripts():
    lines = load_scripts(ROOT / "data" / "scripts")
    counts = {language: sum(line.language == language for line in lines) for language in LANGUAGES}
    assert counts["en"] >= 80 and all(counts[language] >= 20 for language in ("de", "es", "fr", "cmn"))
    for language in ("en", "de", "es", "fr", "cmn"):
        for split in SPLITS:
            assert any(line.language == language and line.split == split for line in lines)
    texts = [line.text for line in lines]
    assert len(set(texts)) == len(texts), "no sentence in two splits"
    short = [synthesize(line.text, line.language).duration_s for line in lines[::9]]
    assert 2.0 < np.median(short) < 4.5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("en.txt", "train | Hello.\ntest Hello\n", "en.txt:2: expected"),
        ("en.txt", "dev | Hello.\n", "en.txt:1: expected"),
        ("en.txt", "train | Hello.\ntest | Hello.\n", "once"),
        ("klingon.txt", "train | nuqneH\n", "klingon"),
    ],
)
def test_bad_scripts(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_scripts(tmp_path)


def test_no_scripts(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="scripts"):
            load_scripts(folder)


@pytest.mark.parametrize("voice", sorted(VOICES))
def test_every_voice_is_the_same_in_every_worker(voice):
    # Breathy voices draw noise; its generator starts at the time of day unless told otherwise.
    speaker = find_voice(voice)
    request = {
        "text": "Big waves broke against the pier all night.",
        "voice": espeak_voice("en", speaker),
        "rate": 165,
        "pitch": speaker.pitch,
        "range": speaker.pitch_range,
    }
    command = [sys.executable, "-m", "avatar_core.speech.espeak_worker"]
    answers = [
        subprocess.run(
            command, input=json.dumps(request) + "\n", capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert "pcm" in answers[0] and answers[0] == answers[1]


def test_training_sentences_differ_in_rate_and_effort_and_are_repeatable():
    source, text = EspeakSpeech(), "The lamp hangs above the table."
    spoken = [source.speak(Line("en", "train", text), voice) for voice in ("otto", "luis", "otto")]
    assert np.array_equal(spoken[0].audio, spoken[2].audio)
    plain = synthesize(text, "en", "otto")
    assert np.array_equal(source.speak(Line("en", "test", text), "otto").audio, plain.audio)
    assert spoken[0].duration_s != pytest.approx(plain.duration_s, abs=0.02)
    louder = with_effort(plain.audio, np.random.default_rng(1))
    assert len(louder) == len(plain.audio) and np.abs(louder).max() < 1
    assert np.array_equal(np.round(louder * 32768) / 32768, louder)  # a wav file holds the same numbers
    loud = plain.audio != 0
    gain = (
        20
        * np.log10(np.abs(louder[loud]) / np.abs(plain.audio[loud]) + 1e-9)[np.abs(plain.audio[loud]) > 0.05]
    )
    assert 2 < gain.std() < 8
