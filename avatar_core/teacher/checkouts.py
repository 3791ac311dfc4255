"""Teachers that are published projects: weights in the layout of each, and a checkout at a known commit."""

from __future__ import annotations

import subprocess
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from avatar_core.config import list_of
from avatar_core.errors import UserError
from avatar_core.models.card import Card, failures
from avatar_core.models.files import COMMIT, check_weights, model_files
from avatar_core.teacher.programs import ProgramTeacher, Take


@dataclass(frozen=True)
class WeightsTeacher(ProgramTeacher):
    """weights: a folder in the project's own layout; weights_sha256: its digest, compared before work where it is declared."""

    about: ClassVar[Card]
    # first folder of a name of `weight_files`, or "" for all others -> the hub's repository that has it
    hubs: ClassVar[Mapping[str, str]]
    launcher: list[str] = list_of()
    weights: str = ""
    weights_sha256: str = ""

    @abstractmethod
    def weight_files(self) -> list[str]:
        """Names below `weights` without which it does not start."""

    def folders(self) -> dict[Path, str]:
        """The weights, where a digest is declared: they come in many ways."""
        return {Path(self.weights): self.weights_sha256} if self.weights_sha256 else {}

    def lacking(self) -> list[str]:
        return super().lacking() + failures(self._check_weights)

    def _check_weights(self) -> None:
        for name in self.weight_files():
            path = Path(self.weights, name)
            if not self.weights or not path.exists() or (path.is_file() and path.stat().st_size == 0):
                raise UserError(
                    f"{self.where}.weights: expected {name} in {self.weights or '(no path)'}, found none; {self._fetch(name)}"
                )
        kinds = (".safetensors", ".safetensors.index.json")
        for folder in sorted({p.parent for p in model_files(Path(self.weights)) if p.name.endswith(kinds)}):
            check_weights(folder)

    def _fetch(self, name: str) -> str:
        """The next step towards a weight file."""
        part = name.split("/")[0]
        hub = self.hubs.get(part, self.hubs[""])
        folder = f"{self.weights or '<weights>'}{'/' + part if part in self.hubs else ''}"
        return f"hf download {hub} --local-dir {folder}" if hub else f"download it as {self.about.url} says"


@dataclass(frozen=True)
class CheckoutTeacher(WeightsTeacher):
    """checkout: the repository; commit: what it must be at, "" for the one that the arguments were read from, any for what is
    there."""

    script: ClassVar[str]  # of the checkout
    tested: ClassVar[str]  # the commit whose arguments these are
    checkout: str = ""
    commit: str = ""

    @abstractmethod
    def options(self, takes: Sequence[Take], work: Path) -> list[str]:
        """What comes after the script."""

    def command(self, takes: Sequence[Take], work: Path) -> list[str]:
        return [str(Path(self.checkout, self.script).resolve()), *self.options(takes, work)]

    @property
    def card(self) -> Card:
        return replace(self.about, revision=self.commit or self.tested)

    def lacking(self) -> list[str]:
        return super().lacking() + failures(self._check_checkout)

    def _check_checkout(self) -> None:
        script = Path(self.checkout, self.script)
        if not self.checkout or not script.is_file():
            raise UserError(
                f"{self.where}.checkout: expected a checkout with {self.script}, found none at {self.checkout or '(no path)'}; "
                f"git clone {self.about.url} && git -C {self.about.url.split('/')[-1]} checkout {self.tested}"
            )
        if self.commit == "any":
            return
        wanted = self.commit or self.tested
        if not COMMIT.fullmatch(wanted):
            raise UserError(f"{self.where}.commit: expected 40 digits, or any, found {wanted}")
        head = subprocess.run(
            ["git", "-C", self.checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        if head != wanted:
            raise UserError(
                f"{self.where}.checkout: expected commit {wanted[:12]}, found {head[:12] or 'no git repository'}; "
                f"git -C {self.checkout} checkout {wanted}, or declare {self.where}.commit"
            )
