"""The detector of keypoints by published nets: photographs, recorded clips and procedural ones alike.

The nets are imported when they are first needed, so that reading parameters stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from avatar_core.io.images import to_uint8

if TYPE_CHECKING:
    from avatar_core.perception.holistic.people import Person


def person_keypoints(person: Person, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A person of a picture of width x height -> the template's keypoints: pixels (K,2), confidence (K,)."""
    from avatar_core.perception.holistic.keypoint_map import template_keypoints

    xy, confidence = template_keypoints(
        person.face[None],
        np.array([person.face_presence]),
        person.pose[None],
        person.pose_visibility[None],
        {side: person.hands.get(side, np.zeros((21, 3)))[None] for side in "LR"},
        {side: np.array([person.hand_presence.get(side, 0.0)]) for side in "LR"},
        width,
        height,
    )
    return xy[0], confidence[0]


@dataclass(frozen=True)
class HolisticKeypoints:
    """One picture is looked at by `find_people` (the largest face counts), several as the frames of one shot."""

    def people(self, image: np.ndarray) -> list[Person]:
        """See `people.find_people`."""
        from avatar_core.perception.holistic.people import find_people

        return find_people(image)

    def person_keypoints(self, person: Person, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """See `person_keypoints`."""
        return person_keypoints(person, width, height)

    def keypoints(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `backends.KeypointDetector`; confidence is 0 everywhere when nobody's face is seen."""
        from avatar_core.perception.holistic.clip import track_person
        from avatar_core.perception.holistic.keypoint_map import template_keypoints
        from avatar_core.template.landmarks import KEYPOINTS

        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images: expected (B,H,W,3), found {images.shape}")
        if images.dtype != np.uint8:
            images = to_uint8(images.astype(np.float32))
        count, height, width = images.shape[:3]
        nothing = (
            np.zeros((count, len(KEYPOINTS), 2), np.float32),
            np.zeros((count, len(KEYPOINTS)), np.float32),
        )
        if count == 0:
            return nothing
        if count == 1:
            people = [p for p in self.people(images[0]) if p.face_presence > 0]
            if not people:
                return nothing
            xy, confidence = person_keypoints(people[0], width, height)
            return xy[None], confidence[None]
        found = track_person(images)
        return template_keypoints(
            found.face,
            found.face_presence,
            found.pose,
            found.pose_visibility,
            found.hands,
            found.hand_presence,
            width,
            height,
        )
