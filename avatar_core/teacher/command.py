"""Teacher `command`: any other program that makes a talking video of a picture and a sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avatar_core.config import given, list_of, ranged
from avatar_core.errors import UserError
from avatar_core.models.card import Card, failures
from avatar_core.teacher import refusal
from avatar_core.teacher.programs import ProgramTeacher, Take

PLACES = ("image", "audio", "out", "prompt", "seed", "frames")


@dataclass(frozen=True)
class CommandTeacher(ProgramTeacher):
    """arguments: come after the launcher, with {image}, {audio} and {out} (files), and {prompt}, {seed}, {frames} (at 25 fps).

    model, revision, licence: what the catalogue shall say; may_train: you have read the licence and it lets another model be
    trained on the videos. delay: seconds that the program puts before the sound.
    """

    where: ClassVar[str] = "teacher.command"
    places: ClassVar[tuple[str, ...]] = PLACES
    required: ClassVar[tuple[str, ...]] = ("image", "audio", "out")
    arguments: list[str] = list_of("")
    model: str = given("the model's name, for the catalogue")
    revision: str = ""
    licence: str = given("the licence of the model's output")
    may_train: bool = False
    width: int = ranged(512, 64, 2048)
    height: int = ranged(512, 64, 2048)
    delay: float = ranged(0.0, 0, 1)
    batch: int = ranged(1, 1, 1)

    @property
    def lead_s(self) -> float | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.delay

    @property
    def card(self) -> Card:
        return Card(
            self.model,
            self.licence,
            "yes" if self.may_train else "no",
            "as params.yaml declares",
            revision=self.revision,
        )

    def folders(self) -> dict[Path, str]:
        return {}

    def lacking(self) -> list[str]:
        return super().lacking() + failures(self._check_licence, self._check_arguments)

    def size(self, framing: str) -> tuple[int, int]:
        return self.width, self.height

    def command(self, takes: Sequence[Take], work: Path) -> list[str]:
        (take,) = takes
        values = {
            "image": take.image.resolve(), "audio": take.audio.resolve(), "out": (take.folder / "made.mp4").resolve(),
            "prompt": take.prompt, "seed": take.request.seed, "frames": take.request.num_frames,
        }  # fmt: skip
        return [argument.format(**values, **self.more(take)) for argument in self.arguments]

    def more(self, take: Take) -> dict[str, object]:
        """What the other places stand for."""
        return {}

    def made(self, takes: Sequence[Take], work: Path) -> list[Path]:
        return [take.folder / "made.mp4" for take in takes]

    def _check_licence(self) -> None:
        for text in (self.model, *self.launcher, *self.arguments):
            if why := refusal(text):
                raise UserError(
                    f"{self.where}: expected a model whose output may train another, found {text}: {why}"
                )
        if not self.may_train:
            raise UserError(
                f"{self.where}.may_train: expected true, after reading that {self.licence} lets another model be trained on the "
                "output, found false"
            )

    def _check_arguments(self) -> None:
        joined = " ".join(self.arguments)
        try:
            joined.format(**dict.fromkeys(self.places, ""))
        except (KeyError, IndexError, ValueError):
            raise UserError(
                f"{self.where}.arguments: expected {{name}} of {', '.join(self.places)} alone, found {joined!r}"
            ) from None
        for name in self.required:
            if f"{{{name}}}" not in joined:
                raise UserError(f"{self.where}.arguments: expected {{{name}}} in them, found {joined!r}")
