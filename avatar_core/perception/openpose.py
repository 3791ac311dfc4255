"""Keypoints from files in OpenPose's JSON, made elsewhere or by hand: one file a picture.

    <path>/<name>_keypoints.json                      of the portrait of a person
    <path>/<name>/<anything>_<number>_keypoints.json  of a clip's frames, in the order of their numbers

name: the id of the person or clip in the catalogue. The body may have OpenPose's 25 points or the older 18; the largest person
counts, a list that is empty or left out is not seen. Pixels are those of the picture; its first pixel's centre is at 0.5.

Legend: B pictures, S sources of `wholebody_map`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avatar_core.errors import UserError
from avatar_core.perception.wholebody_map import FACE, HANDS, PUPILS, SOURCES, template_keypoints

# COCO's points in OpenPose's orders: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left before right
BODY = {
    25: (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11),
    18: (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10),
}
SUFFIX = "_keypoints.json"


@dataclass(frozen=True)
class OpenPoseKeypoints:
    """path: the folder of files."""

    path: str = ""

    def named(self, name: str) -> NamedFiles:
        """The files of a person or clip of the catalogue."""
        return NamedFiles(Path(self.path), name)

    def keypoints(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raises UserError: without a name there are no files."""
        raise UserError(
            "perception.openpose: expected a person or clip of the catalogue, found a picture without a name; "
            "choose other keypoints for it"
        )


@dataclass(frozen=True)
class NamedFiles:
    """See `backends.KeypointDetector`; of the pictures only size and number are looked at."""

    path: Path
    name: str

    def keypoints(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raises UserError: files are missing or damaged."""
        alone, folder = self.path / (self.name + SUFFIX), self.path / self.name
        files = [alone] if alone.is_file() else sorted(folder.glob("*" + SUFFIX), key=_number)
        if len(files) != len(images):
            raise UserError(
                f"{folder}: expected {len(images)} files ..{SUFFIX}, one a picture, found {len(files)}"
            )
        found = [read_openpose(file) for file in files]
        height, width = np.shape(images)[1:3]
        return template_keypoints(
            np.stack([p for p, _ in found]), np.stack([s for _, s in found]), width, height
        )


def read_openpose(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The largest person of a file -> sources (S,2) px, scores (S,), 0 for what is not seen. Raises UserError naming the file."""
    try:
        people = json.loads(file.read_text(encoding="utf-8"))["people"]
        found = [_person(person) for person in people]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: expected OpenPose's JSON, found: {str(error)[:120] or type(error).__name__}"
        ) from None
    if not found:
        return np.zeros((SOURCES, 2)), np.zeros(SOURCES)
    return max(
        found, key=lambda one: np.ptp(one[0][one[1] > 0], axis=0).prod() if (one[1] > 0).any() else 0.0
    )


def _person(person: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    table = np.zeros((SOURCES, 3))
    body = _triples(person, "pose_keypoints_2d", *BODY)
    if len(body):
        table[:17] = body[list(BODY[len(body)])]
    face = _triples(person, "face_keypoints_2d", 70, 68)
    table[FACE : FACE + min(68, len(face))] = face[:68]
    if len(face) == 70:
        table[[PUPILS["R"], PUPILS["L"]]] = face[68:]
    for side, word in (("L", "left"), ("R", "right")):
        hand = _triples(person, f"hand_{word}_keypoints_2d", 21)
        table[HANDS[side] : HANDS[side] + len(hand)] = hand
    if not np.isfinite(table).all():
        raise ValueError("a number that is not finite")
    return table[:, :2], table[:, 2].clip(0, 1)


def _triples(person: dict[str, Any], key: str, *counts: int) -> np.ndarray:
    values = np.asarray(person.get(key) or [], float)
    if values.ndim != 1 or len(values) not in (0, *(3 * n for n in counts)):
        raise ValueError(f"{key} of {np.size(values)} numbers, not {' or '.join(str(3 * n) for n in counts)}")
    return values.reshape(-1, 3)


def _number(file: Path) -> tuple[int, str]:
    digits = file.name[: -len(SUFFIX)].rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0, file.name)
