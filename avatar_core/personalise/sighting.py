"""Who is looked at in a portrait, and what a detector saw of them.

Legend: H W pixels, L limbs, 33 body points in MediaPipe's order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from avatar_core.errors import UserError
from avatar_core.perception.backends import KeypointDetector
from avatar_core.perception.holistic.people import Person
from avatar_core.personalise.limbs import LIMBS
from avatar_core.personalise.portrait_pose import Sighting
from avatar_core.template.landmarks import indices

SEEN = 0.35  # mean keypoint confidence from which a face counts as found
PHOTO_FOV_DEG, LENS_SIGMA = (
    26.0,
    0.45,
)  # of pictures whose lens nobody knows: between a portrait lens and a phone
TOLD_SIGMA = 0.05  # the file tells the lens, not how the picture was cropped
JOINTS = {"shoulder": (11, 12), "elbow": (13, 14), "wrist": (15, 16)}  # left and right


@runtime_checkable
class PeopleDetector(Protocol):
    """A keypoint detector that tells the people of a picture apart and guesses their depth."""

    def people(self, image: np.ndarray) -> list[Person]:
        """Picture (H,W,3) uint8 -> its people, the largest face first, those without a face last."""
        ...

    def person_keypoints(self, person: Person, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (K,2) and confidence (K,) of the template's keypoints."""
        ...


@dataclass(frozen=True)
class Look:
    """sighting: of the person wanted; faces: how many faces the picture shows, the wanted one being number `person` by size."""

    sighting: Sighting
    faces: int
    person: int


def look(detector: KeypointDetector, picture: np.ndarray, person: int, fov_deg: float | None) -> Look:
    """The `person`-th largest face of a picture (H,W,3) in [0,1], from 1; fov_deg: across its longer side, None where unknown.

    Raises UserError when the picture shows nobody's face, or fewer than `person`.
    """
    if not isinstance(detector, PeopleDetector):
        xy, confidence = (np.asarray(a)[0] for a in detector.keypoints(picture[None]))
        found = float(confidence[indices("eyelids.", "lips_", "nose.", "iris.")].mean())
        if not np.isfinite(xy).all() or found < SEEN:
            raise UserError(
                f"portrait: expected one person facing the camera, found none (face confidence {found:.2f})"
            )
        flat = Sighting.flat(xy, confidence)
        return Look(flat, 1, 1)
    height, width = picture.shape[:2]
    people = detector.people((picture * 255 + 0.5).astype(np.uint8))
    faces = [p for p in people if p.face_presence > 0]
    if not faces:
        found = "a person whose face is not seen" if people else "nobody"
        raise UserError(f"portrait: expected a person's face, found {found}")
    if not 1 <= person <= len(faces):
        raise UserError(f"--person: expected 1 to {len(faces)}, the faces of this picture, found {person}")
    chosen = faces[person - 1]
    xy, confidence = detector.person_keypoints(chosen, width, height)
    limbs, certain = limb_directions(chosen)
    lens = (PHOTO_FOV_DEG, LENS_SIGMA) if fov_deg is None else (fov_deg, TOLD_SIGMA)
    return Look(Sighting(xy, confidence, limbs, certain, *lens), len(faces), person)


def limb_directions(person: Person) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of LIMBS (L,3) in camera axes, and how certain they are (L,)."""
    ends = np.array([[JOINTS[name[:-2]]["LR".index(name[-1])] for name in pair] for pair in LIMBS])
    along = person.pose_world[ends[:, 1]] - person.pose_world[ends[:, 0]]
    length = np.linalg.norm(along, axis=1, keepdims=True)
    return along / np.maximum(length, 1e-6), person.pose_visibility[ends].min(1)
