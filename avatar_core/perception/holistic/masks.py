"""Foreground by the published net for people in front of a camera; what is behind is fitted where it is smooth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar_core.particles.background import Background
from avatar_core.perception.holistic.people import person_mask
from avatar_core.perception.warp import as_float


@dataclass(frozen=True)
class SelfieMasks:
    """`people.person_mask` at one half; the colour behind is the median of the rest."""

    def separate(self, image: np.ndarray) -> tuple[np.ndarray, Background]:
        """See `backends.MaskDetector`."""
        picture = as_float(np.asarray(image)).clip(0, 1)
        mask = person_mask((picture * 255 + 0.5).astype(np.uint8)) > 0.5
        color = np.median(picture[~mask], 0) if (~mask).any() else np.full(3, 0.75)
        return mask, Background.plain(color)
