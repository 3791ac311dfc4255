"""Faces of a video: looked for now and then, followed from frame to frame; bodies only where they are asked for."""

from __future__ import annotations

import numpy as np

from avatar_core.perception.face_identity import describe, face_chip
from avatar_core.perception.holistic.people import FACE_LEAST, _face_regions, _faces, find_people, person_mask
from avatar_core.perception.holistic.points import face_points
from avatar_core.perception.holistic.regions import Picture, face_from_mesh, whole


class HolisticFaces:
    """The pretrained face mesh as an `ingest.faces.FaceFinder`."""

    def find(self, image: np.ndarray) -> list[np.ndarray]:
        """All faces of (H,W,3) uint8, each (478,3) px, the largest first."""
        picture = Picture(image)
        square = whole(picture.width, picture.height)
        return list(_faces(picture, _face_regions(picture, square, ("face_near", "face_far"))).mesh)

    def follow(self, image: np.ndarray, mesh: np.ndarray) -> np.ndarray | None:
        """The face that was at `mesh` (478,3) one frame ago; None when it is gone."""
        found, presence = face_points([Picture(image)], face_from_mesh(mesh[None, :, :2]))
        return found[0] if presence[0] > FACE_LEAST else None

    def person(self, image: np.ndarray) -> np.ndarray:
        """(H,W) in [0,1]: which pixels show people."""
        return person_mask(image)

    def joints(self, image: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """(33,) how surely the joints of the person whose face is at `middle` (2,) px are seen, in MediaPipe's order."""
        people = find_people(image)
        if not people:
            return np.zeros(33)
        return min(people, key=lambda p: np.linalg.norm(p.box.reshape(2, 2).mean(0) - middle)).pose_visibility

    def describe(self, image: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        """(128,) dlib's descriptor of the face at `mesh`: within .6 for pictures of one person, further for two."""
        return describe(face_chip(image, mesh)[None])[0]
