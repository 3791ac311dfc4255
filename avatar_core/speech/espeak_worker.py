"""eSpeak NG in a process of its own: text in, 22.05 kHz samples and phoneme events out.

eSpeak NG is GPL-3.0, so the library never loads it. This script is started as a separate program and talks JSON
lines over stdin/stdout. It needs only the standard library and ``espeakng-loader``.

    python -m avatar_core.speech.espeak_worker

First line out: ``{"ready": true, "sample_rate": 22050}`` or ``{"error": ..., "kind": ...}``.
Then, one line in, one line out:
    in   {"text": str, "voice": "en-us+m3", "rate": words/min, "pitch": 0..99, "range": 0..99}
    out  {"pcm": base64 of int16 little endian, "phonemes": [[sample, ipa], ...]} or {"error": str, "kind": str}
``{"probe": voice}`` answers ``{"ok": bool}`` without speaking.

Why a child for each utterance: the synthesiser keeps state from call to call (its second answer to the same text is a
few samples longer, and neither seeding nor re-initialising undoes it). A child forked from the freshly initialised
parent always starts from the same state, so the same text gives the same bytes, whatever was said before.

Source: speak_lib.h of eSpeak NG 1.52 (event and flag numbers).
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import sys
import tempfile

_SYNCHRONOUS = 2
_PHONEME_EVENTS, _PHONEME_IPA, _DONT_EXIT = 0x1, 0x2, 0x8000
_CHARS_UTF8, _END_PAUSE = 0x1, 0x1000
_EVENT_END, _EVENT_PHONEME = 0, 7
_PARAM_RATE, _PARAM_PITCH, _PARAM_RANGE = 1, 3, 4
_MAX_DATA_PATH = (
    150  # the library's buffer holds 160; longer paths silently fall back to the wheel builder's own
)


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class _Engine:
    """The initialised library; `say` must run in a throw-away child."""

    def __init__(self, library_path: str, data_path: str) -> None:
        lib = ctypes.CDLL(library_path)
        lib.espeak_Initialize.restype = ctypes.c_int
        lib.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        lib.espeak_SetSynthCallback.argtypes = [_Callback]
        lib.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        lib.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        lib.espeak_SetParameter.argtypes = [ctypes.c_int] * 3
        options = _PHONEME_EVENTS | _PHONEME_IPA | _DONT_EXIT
        self.sample_rate = lib.espeak_Initialize(_SYNCHRONOUS, 0, data_path.encode(), options)
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak_Initialize failed for the data folder {data_path}")
        self._lib = lib
        self._pcm = bytearray()
        self._phonemes: list[tuple[int, str]] = []
        self._callback = _Callback(self._on_audio)  # the library keeps only the address: hold the object
        lib.espeak_SetSynthCallback(self._callback)

    def _on_audio(
        self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]
    ) -> int:
        if samples and count > 0:
            self._pcm += ctypes.string_at(samples, 2 * count)
        i = 0
        while events[i].type != _EVENT_END:
            event = events[i]
            if event.type == _EVENT_PHONEME:
                self._phonemes.append((event.sample, event.id.string.decode("utf-8", "ignore")))
            i += 1
        return 0

    def has_voice(self, voice: str) -> bool:
        """Does eSpeak NG know the voice?"""
        return self._lib.espeak_SetVoiceByName(voice.encode()) == 0

    def _fix_seed(self) -> None:
        """Breathy voices draw noise from a generator that starts at the time of day: start it at a fixed place."""
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(ctypes.c_uint(1))

    def say(self, text: str, voice: str, rate: int, pitch: int, pitch_range: int) -> dict:
        """Samples and phonemes of a text, or what went wrong, as in the protocol above."""
        if not self.has_voice(voice):
            return {"error": f"eSpeak NG has no voice {voice!r}", "kind": "voice"}
        for parameter, value in ((_PARAM_RATE, rate), (_PARAM_PITCH, pitch), (_PARAM_RANGE, pitch_range)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._fix_seed()
        data = text.encode("utf-8") + b"\0"
        self._lib.espeak_Synth(data, len(data), 0, 1, 0, _CHARS_UTF8 | _END_PAUSE, None, None)
        self._lib.espeak_Synchronize()
        return {"pcm": base64.b64encode(bytes(self._pcm)).decode("ascii"), "phonemes": self._phonemes}


def _answer(engine: _Engine, request: dict) -> dict:
    if "probe" in request:
        return {"ok": engine.has_voice(str(request["probe"]))}
    return engine.say(
        str(request["text"]),
        str(request["voice"]),
        int(request["rate"]),
        int(request["pitch"]),
        int(request["range"]),
    )


def _in_child(engine: _Engine, request: dict) -> str:
    """Answer in a forked child; returns one JSON line without its end."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read_end)
            with os.fdopen(write_end, "wb") as pipe:
                pipe.write(json.dumps(_answer(engine, request)).encode("ascii"))
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        line = pipe.read().decode("ascii")
    _, status = os.waitpid(pid, 0)
    if status != 0 or not line:
        return json.dumps({"error": f"the synthesiser died (wait status {status})", "kind": "crash"})
    return line


def _open_engine(scratch: str) -> _Engine:
    import espeakng_loader  # the GPL part: only ever imported in this process

    data_path = str(espeakng_loader.get_data_path())
    if len(data_path.encode()) > _MAX_DATA_PATH:
        short = os.path.join(scratch, "espeak-ng-data")
        os.symlink(data_path, short)
        data_path = short
    return _Engine(str(espeakng_loader.get_library_path()), data_path)


def main() -> int:
    # Samples and JSON own stdout: send anything the C library prints to stderr instead.
    """Answer requests until the input ends; returns the exit code."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="esp") as scratch:
        try:
            engine = _open_engine(scratch)
        except ImportError:
            print(json.dumps({"error": "espeakng-loader is not installed", "kind": "missing"}), file=out)
            return 1
        except (OSError, RuntimeError) as problem:
            print(json.dumps({"error": str(problem), "kind": "init"}), file=out)
            return 1
        print(json.dumps({"ready": True, "sample_rate": engine.sample_rate}), file=out)
        for line in sys.stdin:
            print(_in_child(engine, json.loads(line)), file=out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
