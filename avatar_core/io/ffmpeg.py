"""The ffmpeg that `imageio-ffmpeg` carries, driven through `ffmpeg-python`.

Files from users are opened with a forced demuxer, chosen by their first bytes, and the `file` protocol only, so that a playlist
dressed up as a video cannot make ffmpeg open anything else.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
from ffmpeg.nodes import Stream

from avatar_core.errors import UserError

BITEXACT: dict[str, str] = {
    "fflags": "+bitexact",
    "flags:v": "+bitexact",
    "flags:a": "+bitexact",
    "map_metadata": "-1",
}


@functools.cache
def executable() -> str:
    """Path of the ffmpeg binary; raises UserError when there is none."""
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise UserError(
            "ffmpeg: expected the binary of the imageio-ffmpeg package, found none; reinstall it"
        ) from None


def demuxer(path: Path, kind: str) -> str:
    """Name of the demuxer for the file's first bytes; raises UserError naming `kind` ("video" or "audio")."""
    if not path.is_file():
        raise UserError(
            f"{path}: expected {_a(kind)} file, found {'a folder' if path.is_dir() else 'no such file'}"
        )
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise UserError(f"{path}: expected {_a(kind)} file, found an empty file")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if kind == "audio":
        if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
            return "wav"
        if head[:4] == b"fLaC":
            return "flac"
        if head[:4] == b"OggS":
            return "ogg"
        if head[:3] == b"ID3" or (head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4)):
            return "mp3"
        if head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
            return "aac"
    raise UserError(f"{path}: expected {_a(kind)} file, found something else (first bytes {head[:8]!r})")


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


class Process:
    """A running ffmpeg whose messages go to a temporary file (a pipe that nobody reads would fill up and block)."""

    def __init__(self, node: Stream, *, feeds: bool = False, reads: bool = False) -> None:
        self._log = tempfile.TemporaryFile()
        program, *arguments = [str(a) for a in ffmpeg.compile(node, cmd=executable(), overwrite_output=True)]
        quiet = ["-hide_banner", "-loglevel", "error"] + ([] if feeds else ["-nostdin"])
        self.process = subprocess.Popen(
            [program, *quiet, *arguments],
            stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
            stdout=subprocess.PIPE if reads else subprocess.DEVNULL,
            stderr=self._log,
        )

    def wait(self) -> int:
        """Close its input and wait for the end; returns the exit code."""
        if self.process.stdin and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass  # ffmpeg ended early; its exit code and messages say why
        return self.process.wait()

    def stop(self) -> None:
        """Kill it if it runs, and free its pipes and log."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        self._log.close()

    def message(self) -> str:
        """Its last line of complaint."""
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "no message"


def decode(path: Path, kind: str, **options: str | float) -> Process:
    """A running ffmpeg that writes the "video" or "audio" of a user's file to its stdout, as the output options say: forced
    demuxer, local files only."""
    source = ffmpeg.input(str(path), f=demuxer(path, kind), protocol_whitelist="file")
    stream = source.audio if kind == "audio" else source.video
    return Process(ffmpeg.output(stream, "pipe:", **options), reads=True)
