"""The ffmpeg that `imageio-ffmpeg` carries, driven through `ffmpeg-python`.

Files from users are opened with a forced demuxer, chosen by their first bytes, and the `file` protocol only, so that a playlist
dressed up as a video cannot make ffmpeg open anything else; a name with a colon is no protocol, one with a hyphen no option.

Time is the file's own: 0 is where its earliest stream starts, so pictures and sound that start apart stay apart.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
from ffmpeg.nodes import Stream as Node

from avatar_core.errors import UserError
from avatar_core.io.kinds import check_is_file, describe, kind_of

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


class Process:
    """A running ffmpeg whose messages go to a temporary file (a pipe that nobody reads would fill up and block)."""

    def __init__(self, node: Node, *, feeds: bool = False, reads: bool = False) -> None:
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

    def messages(self) -> list[str]:
        """Its lines of complaint, without ffmpeg's own addresses."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        return [re.sub(r"@ 0x[0-9a-f]+", "", line).strip() for line in lines if line.strip()]

    def message(self) -> str:
        """Its last line of complaint."""
        return (self.messages() or ["no message"])[-1]


@dataclass(frozen=True)
class Stream:
    """One picture or sound stream: its number in the file, and how ffmpeg describes it."""

    index: int
    about: str


@dataclass(frozen=True)
class Source:
    """A user's file that ffmpeg can open. start_s: the file's zero on its own clock; duration_s: what its header says, or None."""

    path: Path
    demuxer: str
    start_s: float
    duration_s: float | None
    videos: tuple[Stream, ...]
    audios: tuple[Stream, ...]

    def open(self) -> Node:
        """The file as an input for `ffmpeg.output`, with its own time stamps (give `copyts` to the output)."""
        return ffmpeg.input(url(self.path), f=self.demuxer, protocol_whitelist="file")

    def decode(self, stream: Stream, **options: str | float | None) -> Process:
        """A running ffmpeg that writes one stream to its stdout, as the output options say."""
        node = self.open()[str(stream.index)]
        return Process(ffmpeg.output(node, "pipe:", copyts=None, **options), reads=True)


def url(path: Path) -> str:
    """The path as ffmpeg takes it, whatever characters are in it."""
    return f"file:{path}"


def probe(path: Path, what: str) -> Source:
    """Read a user's file's header. Raises UserError, in which `what` was expected: missing, empty, neither video nor sound."""
    check_is_file(path, what)
    kind = kind_of(path)
    if kind is None or not kind.demuxer:
        raise UserError(f"{path}: expected {what}, found {describe(path)}")
    command = [
        executable(),
        "-hide_banner",
        "-nostdin",
        "-protocol_whitelist",
        "file",
        "-f",
        kind.demuxer,
        "-i",
        url(path),
    ]
    text = subprocess.run(command, capture_output=True, check=False).stderr.decode(errors="replace")
    videos, audios = [], []
    for index, medium, about in re.findall(r"^  Stream #0:(\d+).*?: (Video|Audio): (.*)$", text, re.M):
        (videos if medium == "Video" else audios).append(Stream(int(index), about))
    if not videos and not audios:
        lines = [line.strip() for line in text.splitlines() if "At least one output" not in line]
        reason = re.sub(r"^\[.*?\] *", "", lines[-1]) if lines else "no message"
        raise UserError(f"{path}: expected {what}, found a damaged or empty one ({kind.name}: {reason})")
    start = re.search(r"^  Duration:.* start: (-?[\d.]+)", text, re.M)
    length = re.search(r"^  Duration: (\d+):(\d+):([\d.]+)", text, re.M)
    seconds = None
    if length and "Estimating duration" not in text:
        seconds = int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3])
    return Source(
        path, kind.demuxer, float(start[1]) if start else 0.0, seconds, tuple(videos), tuple(audios)
    )
