"""`reference` backends: published networks that the user brings, by path and SHA-256. Nothing is downloaded.

`path` is a network (see `networks`, `syncnet`), or, for what tools too large to bring along give, a .json file
{row: {clip id: score}} that the tool's own environment wrote. A wrong hash stops the run: a number must not name a network that
did not make it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, ClassVar

from avatar_core.errors import UserError
from avatar_core.metrics.networks import NetworkFile, Run, Signature, load_network


@dataclasses.dataclass(frozen=True)
class Referenced:
    """A metric that a published network or tool can stand behind. path: its file, empty for the embedded one; sha256: its hash."""

    path: str = ""
    sha256: str = ""

    wanted: ClassVar[str] = ""  # of the file, in words; empty for a formula
    signature: ClassVar[Signature | None] = None  # of the network
    scores: ClassVar[bool] = False  # whether a file of scores does too

    @property
    def reference(self) -> NetworkFile | None:
        return NetworkFile(Path(self.path), self.sha256, self.wanted) if self.path else None

    @property
    def backend(self) -> str:
        return "reference" if self.path else "embedded" if self.wanted else "formula"

    @property
    def note(self) -> str:
        """Which file stands behind the value; empty where none does."""
        return f"{Path(self.path).name} {self.sha256[:12].lower()}" if self.path else ""

    @property
    def score_file(self) -> NetworkFile | None:
        """The reference, where it holds scores."""
        return self.reference if self.scores and self.path.lower().endswith(".json") else None

    def check(self, device: str = "cpu") -> None:
        """UserError unless the reference, where there is one, is the file that it should be. A network is tried."""
        if self.reference is None:
            return
        if not self.wanted:
            raise UserError(f"{self.path}: expected no reference for a formula, found one")
        if self.score_file is not None:
            _table(self.score_file)
        else:
            self.load(device)

    def load(self, device: str) -> object:
        """The network behind the metric. Raises UserError naming the file."""
        return self.run(device)

    def run(self, device: str) -> Run:
        """As `load`, of one network of the class's signature."""
        assert self.reference is not None and self.signature is not None
        return load_network(self.reference, self.signature, device)


def read_score(file: NetworkFile, row: str, clip: str) -> float:
    """The score of a clip of a row from the JSON that the published tool's environment wrote. UserError where there is none."""
    scores = _table(file).get(row)
    value = scores.get(clip) if isinstance(scores, dict) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{file.path}: expected a number for row {row}, clip {clip}, found {value!r}")
    return float(value)


def _table(file: NetworkFile) -> dict[str, Any]:
    path = file.verified()
    try:
        table = json.loads(path.read_text())
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise UserError(f"{path}: expected JSON {{row: {{clip id: score}}}}, found something else")
    return table
