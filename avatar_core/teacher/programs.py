"""Teachers that are programs of their own: each runs in its own environment, on inputs laid out as it expects.

A preset is a frozen dataclass that says how a clip is laid out, how the program is called and where its video lies; this module
does the rest: pictures and sounds, the process and its log, collecting what it made.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from avatar_core.config import list_of, ranged
from avatar_core.device import Compute
from avatar_core.errors import UserError
from avatar_core.io.audio import write_wav
from avatar_core.io.images import write_png
from avatar_core.models.card import Card, failures, start
from avatar_core.models.files import verify_folder
from avatar_core.teacher import ClipRequest
from avatar_core.teacher.collect import collect
from avatar_core.teacher.picture import framed

PROMPT = (
    "A realistic video of a {person} speaking directly to the camera, with natural head movements and expressive hand gestures. "
    "The camera is still, the background does not move."
)
TAIL_S = 0.4  # silence after the sound, so that a program that rounds down still covers it
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Take:
    """A clip laid out in `folder`: image and audio (with TAIL_S of silence behind) are files there."""

    request: ClipRequest
    folder: Path
    prompt: str

    @property
    def image(self) -> Path:
        return self.folder / "image.png"

    @property
    def audio(self) -> Path:
        return self.folder / "audio.wav"


@dataclass(frozen=True)
class ProgramTeacher(ABC):
    """launcher: what starts the program, in its own environment, e.g. [docker, run, ..., python]; minutes: the longest that one
    clip may take; prompt: {person} becomes man, woman or person.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    where: ClassVar[str]  # the key of its section
    lead_s: ClassVar[float | None] = 0.0  # what it puts before the sound; None: it makes none
    framings: ClassVar[tuple[str, ...]] = ("face", "waist_up", "full_body")
    starter: ClassVar[str] = "/opt/env/bin/python"  # what a launcher looks like
    launcher: list[str] = list_of("python")
    batch: int = ranged(1, 1, 1000)  # clips a start of the program
    minutes: float = ranged(60.0, 0.01, 100_000)
    prompt: str = PROMPT

    @property
    @abstractmethod
    def card(self) -> Card:
        """See `models.card.Published`."""

    @abstractmethod
    def folders(self) -> dict[Path, str]:
        """See `models.card.Published`."""

    @abstractmethod
    def size(self, framing: str) -> tuple[int, int]:
        """Width and height in px of the picture that it is given."""

    @abstractmethod
    def command(self, takes: Sequence[Take], work: Path) -> list[str]:
        """What comes after the launcher, to make all takes in one start; may lay out files in `work`."""

    @abstractmethod
    def made(self, takes: Sequence[Take], work: Path) -> list[Path]:
        """Where the videos lie then; a path without a file for one that is missing."""

    def laid_out(self, take: Take) -> None:
        """What a take needs beside image and sound. Raises UserError."""
        return

    def variables(self) -> dict[str, str]:
        """What its environment needs."""
        return {}

    def lacking(self) -> list[str]:
        """See `models.card.Published`."""
        return failures(self._check_launcher)

    def videos(
        self,
        requests: Sequence[ClipRequest],
        folder: Path,
        compute: Compute,
        advance: Callable[[], None],
    ) -> None:
        """Make `<folder>/<clip>.mp4` of every request, `batch` at a start. Raises UserError: before work for what is missing or a
        framing that it cannot do; naming log or video for a program that fails."""
        for request in requests:
            if request.framing not in self.framings:
                raise UserError(
                    f"{self.where}: expected clips of {', '.join(self.framings)}, found {request.framing} ({request.name}); "
                    f"set speech.{request.framing}_clips: 0 or give another teacher these"
                )
        start(self.where, self, compute)
        for weights, sha256 in self.folders().items():
            verify_folder(weights, sha256)
        work = folder / "work"
        for first in range(0, len(requests), self.batch):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            takes = [self._take(request, work) for request in requests[first : first + self.batch]]
            arguments = [*self.launcher, *self.command(takes, work)]
            limit_s = 60 * self.minutes * len(takes)
            log = folder / "log.txt"
            run_program(arguments, work, log, self.where, limit_s, compute, self.variables())
            for take, video in zip(takes, self.made(takes, work), strict=True):
                collect(video, folder / f"{take.request.name}.mp4", take.request.speech.audio, self.lead_s)
                advance()
        shutil.rmtree(work, ignore_errors=True)

    def _take(self, request: ClipRequest, work: Path) -> Take:
        take = Take(request, work / request.name, self.prompt.format(person=noun(request)))
        audio = request.speech.audio
        write_png(take.image, framed(request.portrait, request.framing, *self.size(request.framing)))
        write_wav(take.audio, np.concatenate([audio, np.zeros(round(TAIL_S * 16_000), np.float32)]))
        self.laid_out(take)
        return take

    def _check_launcher(self) -> None:
        if not self.launcher or shutil.which(self.launcher[0]) is None:
            found = f"no {self.launcher[0]}" if self.launcher else "none"
            raise UserError(
                f"{self.where}.launcher: expected the command that starts its python, found {found}; "
                f"make the environment that {self.card.url or self.card.id} describes and name it, e.g. [{self.starter}]"
            )


def noun(request: ClipRequest) -> str:
    """man, woman, or person where the sex is not known."""
    return {"male": "man", "female": "woman"}.get(request.attributes.get("sex", ""), "person")


def run_program(
    arguments: Sequence[str],
    folder: Path,
    log: Path,
    where: str,
    limit_s: float,
    compute: Compute,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run a program in `folder`, what it says into `log`; its whole process group ends with it, at the limit, or with us.

    Raises UserError with its last line when it fails, and when it takes longer.
    """
    environment = {name: value for name, value in os.environ.items() if name not in OURS} | dict(
        variables or {}
    )
    if compute.on_card:
        environment["CUDA_VISIBLE_DEVICES"] = _card(
            compute.device, environment.get("CUDA_VISIBLE_DEVICES", "")
        )
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(
                list(arguments),
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"{where}: expected to start {arguments[0]}, found: {error.strerror}") from None
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{where}: expected an end within {limit_s / 60:g} minutes, found it still running; "
                f"see {log}, or allow more `minutes`"
            ) from None
        finally:
            _end_group(process)
    if code:
        lines = log.read_text(errors="replace").splitlines()
        said = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        raise UserError(
            f"{where}: expected the program to end well, found exit code {code}: {said[:200]}; see {log}"
        )


def _card(device: str, visible: str) -> str:
    """What CUDA_VISIBLE_DEVICES must be for a child to see our device as its first."""
    index = int(device.partition(":")[2] or 0)
    names = [name for name in re.split(r"\s*,\s*", visible.strip()) if name]
    return names[index] if index < len(names) else str(index)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    import signal

    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()
