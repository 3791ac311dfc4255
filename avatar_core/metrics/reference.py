"""`reference` backends: published networks that the user brings, by path and SHA-256. Nothing is downloaded.

Two kinds. Feature networks (FID, FVD, CSIM, SyncC/SyncD) are ONNX files, run with OpenCV's dnn on the CPU.
Scores that need tools too large to embed (IQA and ASE by Q-Align, HKC by a whole-body pose estimator) are read
from a JSON file {row: {clip id: score}} that the tool's own environment wrote. A wrong hash stops the run: a number
must not name a network that did not make it.

Legend: B batch, H W pixels, D features.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file


@dataclasses.dataclass(frozen=True)
class ReferenceFile:
    """A file the user brings: its path, its hash, and what it should be."""

    path: Path
    sha256: str
    wanted: str

    def verified(self) -> Path:
        """The path, after checking that it is there and has the stated hash. Raises UserError saying what to place."""
        if not self.path.is_file():
            raise UserError(f"{self.path}: expected {self.wanted}, found no such file; place it there")
        found = sha256_file(self.path)
        if found != self.sha256.lower():
            raise UserError(
                f"{self.path}: expected SHA-256 {self.sha256[:12] or '(none given)'}... , found {found[:12]}..."
            )
        return self.path


@dataclasses.dataclass(frozen=True)
class Referenced:
    """A metric that a published network or tool can stand behind. path: its file, empty for the embedded one; sha256: its hash."""

    path: str = ""
    sha256: str = ""

    wanted: ClassVar[str] = ""
    formula: ClassVar[bool] = False
    side: ClassVar[int] = 0  # px a side, of a network; 0: the file holds scores

    @property
    def reference(self) -> ReferenceFile | None:
        return ReferenceFile(Path(self.path), self.sha256, self.wanted) if self.path else None

    @property
    def backend(self) -> str:
        return "formula" if self.formula else "reference" if self.path else "embedded"

    def check(self) -> None:
        """UserError unless the reference, where there is one, is the file that it should be."""
        if self.reference is None:
            return
        if not self.wanted:
            raise UserError(f"{self.path}: expected no reference for a formula, found one")
        if self.side:
            OnnxFeatures(self.reference, self.side)
        else:
            _table(self.reference)


class OnnxFeatures:
    """A feature network in ONNX, of `size` px. Call with images (B,H,W,3) in [0,1], or clips (B,T,H,W,3) -> (B,D)."""

    def __init__(self, file: ReferenceFile, size: int) -> None:
        path, self.size = file.verified(), size
        try:
            self.net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise UserError(
                f"{path}: expected an ONNX network, found {str(error).splitlines()[-1][:120]}"
            ) from None

    def __call__(self, images: NDArray) -> NDArray[np.float32]:
        rows = []
        for item in images:
            frames = item[None] if item.ndim == 3 else item
            side = (self.size, self.size)
            small = np.stack(
                [cv2.resize(f.astype(np.float32), side, interpolation=cv2.INTER_AREA) for f in frames]
            )
            blob = (2 * small - 1).transpose(3, 0, 1, 2)[None]  # (1,3,T,H,W)
            self.net.setInput(np.ascontiguousarray(blob if item.ndim == 4 else blob[:, :, 0]))
            rows.append(np.asarray(self.net.forward(), np.float32).reshape(-1))
        return np.stack(rows)


def read_score(file: ReferenceFile, row: str, clip: str) -> float:
    """The score of a clip of a row from the JSON that the published tool's environment wrote. UserError where there is none."""
    scores = _table(file).get(row)
    value = scores.get(clip) if isinstance(scores, dict) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{file.path}: expected a number for row {row}, clip {clip}, found {value!r}")
    return float(value)


def _table(file: ReferenceFile) -> dict[str, Any]:
    path = file.verified()
    try:
        table = json.loads(path.read_text())
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise UserError(f"{path}: expected JSON {{row: {{clip id: score}}}}, found something else")
    return table
