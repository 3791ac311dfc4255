"""`reference` backends: published networks that the user brings, by path and SHA-256. Nothing is downloaded.

Two kinds. Feature networks (FID, FVD, CSIM, SyncC/SyncD) are ONNX files, run with OpenCV's dnn on the CPU.
Scores that need tools too large to embed (IQA and ASE by Q-Align, HKC by a whole-body pose estimator) are read
from a JSON file {clip id: score} that the tool's own environment wrote. A wrong hash stops the run: a number
must not name a network that did not make it.

Legend: B batch, H W pixels, D features.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a metric's reference backend is and what file to place."""

    what: str
    kind: str  # onnx or scores


WANTED = {
    "FID": Wanted("InceptionV3 pool3 (2048-d), ONNX, input (1,3,299,299) RGB in [-1,1]", "onnx"),
    "FVD": Wanted("I3D Kinetics-400 logits, ONNX, input (1,3,16,224,224) RGB in [-1,1]", "onnx"),
    "CSIM": Wanted("ArcFace (512-d), ONNX, input (1,3,112,112) RGB in [-1,1]", "onnx"),
    "SyncC": Wanted("SyncNet scores: JSON {clip id: LSE-C} written by the published SyncNet", "scores"),
    "SyncD": Wanted("SyncNet scores: JSON {clip id: LSE-D} written by the published SyncNet", "scores"),
    "IQA": Wanted("Q-Align quality scores: JSON {clip id: 1..5}", "scores"),
    "ASE": Wanted("Q-Align aesthetics scores: JSON {clip id: 1..5}", "scores"),
    "HKC": Wanted("hand keypoint confidences of a whole-body estimator: JSON {clip id: 0..1}", "scores"),
}


@dataclasses.dataclass(frozen=True)
class ReferenceFile:
    """A file the user brings for one metric."""

    metric: str
    path: Path
    sha256: str

    def verified(self) -> Path:
        """The path, after checking that it is there and has the stated hash. Raises UserError saying what to place."""
        if self.metric not in WANTED:
            raise UserError(
                f"metric {self.metric}: expected one of {', '.join(WANTED)} for backend reference"
            )
        what = WANTED[self.metric].what
        if not self.path.is_file():
            raise UserError(
                f"{self.path}: expected {what} for {self.metric} (reference), found no such file; place it there"
            )
        found = sha256_file(self.path)
        if found != self.sha256.lower():
            raise UserError(
                f"{self.path}: expected SHA-256 {self.sha256[:12]}... for {self.metric} (reference), found {found[:12]}..."
            )
        return self.path


_SIDES = {"FID": 299, "FVD": 224, "CSIM": 112}


class OnnxFeatures:
    """A feature network in ONNX. Call with images (B,H,W,3) in [0,1], or for FVD clips (B,16,H,W,3) -> (B,D)."""

    def __init__(self, file: ReferenceFile) -> None:
        path = file.verified()
        if WANTED[file.metric].kind != "onnx":
            raise UserError(
                f"metric {file.metric}: expected a JSON of scores as reference, found a request for a network"
            )
        self.size = _SIDES[file.metric]
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


def read_scores(file: ReferenceFile, clips: list[str]) -> list[float]:
    """Scores of `clips` from the JSON the published tool wrote. Raises UserError naming the first clip without one."""
    path = file.verified()
    try:
        table = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path}: expected JSON {{clip id: score}}, found damaged text") from None
    values = []
    for clip in clips:
        value = table.get(clip) if isinstance(table, dict) else None
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise UserError(f"{path}: expected a number for clip {clip}, found {value!r}")
        values.append(float(value))
    return values
