"""Speech backend `espeak`: eSpeak NG in a worker process (see `espeak_worker`), bit-identical from call to call.

Its samples (22.05 kHz) are resampled to 16 kHz by a polyphase filter, put between a little silence, rounded to 16 bits
(so that a wav file holds exactly the same numbers) and padded to whole 25 fps frames.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import subprocess
import sys
import threading
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from avatar_core.clock import SAMPLE_RATE, pad_to_frames
from avatar_core.errors import UserError
from avatar_core.speech.types import Phoneme, Speech
from avatar_core.speech.voices import DEFAULT_VOICE, espeak_voice, find_voice

MAX_CHARACTERS = 20_000
CLOSURE_S = {
    "p": 0.055,
    "t": 0.055,
    "k": 0.055,
    "c": 0.055,
    "q": 0.055,
    "b": 0.035,
    "d": 0.035,
    "ɡ": 0.035,
    "g": 0.035,
}
"""How long a stop's closure lasts before the burst, at which eSpeak NG says that the stop starts (measured on its loudness)."""
_WORKER = Path(__file__).with_name("espeak_worker.py")
_INSTALL = (
    "speech backend espeak: needs the package espeakng-loader, found none; run: pip install espeakng-loader"
)


def synthesize(
    text: str,
    language: str = "en",
    voice: str = DEFAULT_VOICE,
    *,
    rate: int = 165,
    pitch: int | None = None,
    lead_s: float = 0.16,
    tail_s: float = 0.16,
) -> Speech:
    """Speak `text`.

    Args:
        text: up to 20,000 characters, at least one letter or digit.
        language: a key of `voices.LANGUAGES`.
        voice: a key of `voices.VOICES`.
        rate: words a minute, 80..400.
        pitch: 0..99; None = the speaker's own.
        lead_s, tail_s: silence before and after, seconds.

    Returns:
        Speech at 16 kHz; the same bytes for the same arguments, in any process.

    Raises:
        UserError: empty, unspeakable (emoji only) or too long text, unknown language or voice, rate or pitch out of
            range, espeakng-loader not installed.
    """
    text = clean_text(text)
    speaker = find_voice(voice)
    name = espeak_voice(language, speaker)
    pitch = speaker.pitch if pitch is None else pitch
    if not 80 <= rate <= 400:
        raise UserError(f"rate: expected 80..400 words a minute, found {rate}")
    if not 0 <= pitch <= 99:
        raise UserError(f"pitch: expected 0..99, found {pitch}")
    if not (0 <= lead_s <= 10 and 0 <= tail_s <= 10):
        raise UserError(f"lead_s, tail_s: expected 0..10 seconds, found {lead_s} and {tail_s}")
    answer = _worker().ask(
        {"text": text, "voice": name, "rate": rate, "pitch": pitch, "range": speaker.pitch_range}
    )
    source = np.frombuffer(base64.b64decode(answer["pcm"]), dtype="<i2")
    events = [(int(sample), str(ipa)) for sample, ipa in answer["phonemes"]]
    if source.size == 0 or not any(_bare(ipa) for _, ipa in events):
        raise UserError(f"text: expected something that can be spoken in {language!r}, found {text[:40]!r}")
    source_rate = int(answer["sample_rate"])
    audio = _to_16k(source, source_rate)
    lead, tail = round(lead_s * SAMPLE_RATE), round(tail_s * SAMPLE_RATE)
    audio = pad_to_frames(np.concatenate([np.zeros(lead), audio, np.zeros(tail)]))
    whole = np.clip(np.round(audio), -32768, 32767) + 0.0  # no negative zeros: a wav file has none
    audio = (whole / 32768.0).astype(np.float32)
    phonemes = _timed(events, source_rate, lead / SAMPLE_RATE, len(audio) / SAMPLE_RATE)
    return Speech(audio, phonemes, text, language, voice)


def clean_text(text: str) -> str:
    """One line without control characters. Raises UserError when nothing in it can be spoken or it is too long."""
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Zs") else c for c in text)
    text = " ".join("".join(c for c in text if unicodedata.category(c) not in ("Cs", "Co", "Cn")).split())
    if not text:
        raise UserError("text: expected a sentence, found nothing")
    if not any(unicodedata.category(c)[0] in "LN" for c in text):
        raise UserError(f"text: expected letters or digits, found only symbols: {text[:20]!r}")
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"text: expected at most {MAX_CHARACTERS} characters, found {len(text)}")
    return text


def _to_16k(source: np.ndarray, source_rate: int) -> np.ndarray:
    """(n,) int16 at `source_rate` -> float64 at 16 kHz, still in int16 units."""
    common = int(np.gcd(SAMPLE_RATE, source_rate))
    return resample_poly(source.astype(np.float64), SAMPLE_RATE // common, source_rate // common)


def _bare(ipa: str) -> str:
    return ipa.replace("ˈ", "").replace("ˌ", "").strip("_: ")


def _timed(events: list[tuple[int, str]], rate: int, lead_s: float, total_s: float) -> list[Phoneme]:
    """Start events -> segments that follow each other without gaps from 0 to total_s; runs of pauses are joined."""
    marks: list[tuple[float, str]] = [(0.0, "")] if lead_s > 0 or not events or events[0][0] > 0 else []
    marks += [(lead_s + sample / rate, ipa) for sample, ipa in events]
    phonemes: list[Phoneme] = []
    for (start, ipa), (end, _) in zip(marks, [*marks[1:], (total_s, "")], strict=True):
        end = min(end, total_s)
        bare = _bare(ipa)
        if end <= start and not bare:
            continue
        if not bare and phonemes and not phonemes[-1].ipa:
            start = phonemes.pop().start_s
        phonemes.append(Phoneme(start, max(start, end), bare, "ˈ" in ipa))
    return _with_closures(phonemes)


def _with_closures(phonemes: list[Phoneme]) -> list[Phoneme]:
    """Stops start with their closure, as phoneticians cut them, not with the burst; a sound before one keeps half its time."""
    out: list[Phoneme] = []
    for phoneme in phonemes:
        closure = CLOSURE_S.get(phoneme.ipa[:1], 0.0)
        if closure and out:
            before = out[-1]
            start = max(phoneme.start_s - closure, (before.start_s + before.end_s) / 2)
            out[-1] = replace(before, end_s=start)
            phoneme = replace(phoneme, start_s=start)
        out.append(phoneme)
    return out


class _Worker:
    """The running worker program; one request at a time."""

    def __init__(self) -> None:
        # -I: our package folder must not shadow standard modules in the worker
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
        )
        self._lock = threading.Lock()
        self.owner = os.getpid()
        hello = self._read()
        if "error" in hello:
            self.close()
            if hello.get("kind") == "missing":
                raise UserError(_INSTALL)
            raise UserError(f"speech backend espeak: expected a working eSpeak NG, found: {hello['error']}")
        self.sample_rate = int(hello["sample_rate"])

    def ask(self, request: dict) -> dict:
        """Send one request and wait for its answer; UserError says what eSpeak NG could not do."""
        with self._lock:
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                raise UserError("speech backend espeak: the worker process has ended") from None
            answer = self._read()
        if answer.get("kind") == "voice":
            raise UserError(f"voice: {answer['error']}")
        if "error" in answer:
            raise UserError(f"speech backend espeak: {answer['error']}")
        return answer | {"sample_rate": self.sample_rate}

    def _read(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": "the worker process has ended", "kind": "crash"}

    def alive(self) -> bool:
        """Is the process still running?"""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()  # end of input ends the worker
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_current: _Worker | None = None


def _worker() -> _Worker:
    """The process-wide worker; a forked child of ours starts its own (two askers on one pipe would mix answers)."""
    global _current
    if _current is None or _current.owner != os.getpid() or not _current.alive():
        _current = _Worker()
    return _current


@atexit.register
def _close() -> None:
    if _current is not None and _current.owner == os.getpid():
        _current.close()
