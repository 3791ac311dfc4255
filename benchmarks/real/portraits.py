"""Photographs of people: found or not, how much is trusted, how the avatar shows the picture that it was made from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatar_core.errors import UserError
from avatar_core.io.images import read_image, to_uint8
from avatar_core.particles.layout import make_layout
from avatar_core.particles.stance import to_stance
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.perception.holistic.people import find_people
from avatar_core.personalise.config import PersonaliseConfig
from avatar_core.personalise.personalise import personalise
from avatar_core.speak.preview import cut_out, draw_points
from avatar_core.speak.still import render_still
from avatar_core.template.landmarks import KEYPOINT_INDEX

TRUSTED = 0.5
JOINTS = tuple(f"{joint}.{side}" for joint in ("shoulder", "elbow", "wrist", "hip") for side in "LR")


@dataclass(frozen=True)
class PortraitRow:
    """One photograph. faces: how many were found; presence: of the largest; joints: trusted ones of the 8 of the upper body;
    psnr_db: on the person in the portrait's own pose; outside: share of the opacity beside the matte; seconds: of personalise.
    refused: why there is no avatar, else ""."""

    name: str
    faces: int
    presence: float
    joints: int
    psnr_db: float
    face_db: float
    outside: float
    seconds: float
    refused: str


def judge_portrait(
    path: Path, perception: PerceptionConfig, config: PersonaliseConfig
) -> tuple[PortraitRow, list[np.ndarray]]:
    """The row, and pictures to look at: points, cut-out, avatar in the portrait's pose, avatar as it rests."""
    try:
        image = read_image(path)
    except UserError as error:
        return _refused(path, 0, 0.0, error), [np.full((64, 64, 3), 0.9)]
    people = find_people(to_uint8(image))
    presence = max((p.face_presence for p in people), default=0.0)
    faces = sum(p.face_presence > TRUSTED for p in people)
    start = time.monotonic()
    try:
        canonical, camera, fit = personalise(image, perception, config=config)
    except UserError as error:
        return _refused(path, faces, presence, error), [image]
    seconds = time.monotonic() - start
    joints = sum(fit.confidence[KEYPOINT_INDEX[name]] > TRUSTED for name in JOINTS)
    resting = render_still(to_stance(canonical, make_layout(config.particles)), camera)
    row = PortraitRow(
        path.name, faces, presence, int(joints), fit.psnr_foreground, fit.psnr_face, fit.outside, seconds, ""
    )
    return row, [draw_points(fit), cut_out(fit), fit.picture, resting]


def _refused(path: Path, faces: int, presence: float, error: UserError) -> PortraitRow:
    nan = float("nan")
    return PortraitRow(
        path.name, faces, presence, 0, nan, nan, nan, nan, str(error).removeprefix(f"{path}: ")
    )
