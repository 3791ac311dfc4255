"""Mask backend for photographs: the person with soft hair, the person's own colours, and the room without the person.

The network and the solvers are imported when they are first needed, so that reading parameters stays quick.

Legend: H W pixels, K keypoints of `template.landmarks.KEYPOINTS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar_core.io.images import to_uint8
from avatar_core.particles.background import Background, Room
from avatar_core.perception.foreground import Matte, as_float, hard_matte, largest, plain_backdrop, separate

OWN = 0.5  # alpha from which a pixel counts as the person's
HINT = 0.2  # alpha from which the person's colour in a pixel is known
NOTHING = 0.02  # alpha up to which a pixel shows the room alone
SMOOTH_BORDER = 0.004  # mean error of a border that is as smooth as a painted one
LEAST = 0.003  # share of a picture that a person has
AGREE = 0.93  # intersection over union


@dataclass(frozen=True)
class MatteMasks:
    """Soft mattes by the segmentation network; a backdrop that is smooth, and agrees with the network, is exact without."""

    def person_mask(self, picture: np.ndarray) -> np.ndarray:
        """Picture (H,W,3) uint8 -> how surely each pixel shows a person, (H,W) float32 in [0,1]."""
        from avatar_core.perception.holistic.people import person_mask

        return person_mask(picture)

    def mask(self, image: np.ndarray) -> np.ndarray:
        """The largest piece of the network's mask (H,W) bool; where it sees nobody, see `foreground.separate`."""
        mask = largest(self.person_mask(to_uint8(image)) > OWN)
        return mask if mask.mean() >= LEAST else separate(image)[0]

    def matte(self, image: np.ndarray, xy: np.ndarray, confidence: np.ndarray) -> Matte:
        """The person that the keypoints lie on, before the room that the person hides."""
        from avatar_core.perception.holistic.people import find_people
        from avatar_core.perception.matte_colors import separate_colors
        from avatar_core.perception.matte_person import head_box, person_alpha
        from avatar_core.perception.matte_room import fill_room, strands

        image = as_float(image)
        plain = _plain(image, self.person_mask(to_uint8(image)) > OWN)
        if plain is not None:
            return hard_matte(image, *plain)
        alpha = person_alpha(image, xy, confidence, self.person_mask, find_people(to_uint8(image)))
        colors, behind = separate_colors(image, alpha)
        hole = alpha > NOTHING
        hole |= strands(image, hole, head_box(xy))
        room = Room(to_uint8(fill_room(np.where(alpha[..., None] < NOTHING, image, behind), hole)))
        height, width = alpha.shape
        picture = alpha[..., None] * colors + (1 - alpha[..., None]) * room.image(width, height)
        return Matte(alpha, alpha > OWN, alpha > HINT, colors, picture.astype(np.float32), room)


def _plain(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, Background] | None:
    """Mask and backdrop, where the border is smooth and what stands out is about the network's person."""
    plain = plain_backdrop(image, SMOOTH_BORDER)
    if plain is None or (plain[0] & mask).sum() < AGREE * (plain[0] | mask).sum():
        return None
    return plain
