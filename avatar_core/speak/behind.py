"""What stands behind a speaking avatar: the portrait's own room, a colour, another picture, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ImageColor

from avatar_core.errors import UserError
from avatar_core.io.images import read_image, to_uint8
from avatar_core.particles.background import Background, Room
from avatar_core.particles.canonical import Canonical

SAMPLE_PX = 64  # side at which a room's own colour is looked for


@dataclass(frozen=True)
class Behind:
    """kind: `keep` the avatar's own backdrop, its typical colour (`plain`), nothing (`alpha`), or `given`."""

    kind: Literal["keep", "plain", "alpha", "given"]
    given: Background | Room

    @property
    def transparent(self) -> bool:
        return self.kind == "alpha"

    def before(self, canonical: Canonical) -> Canonical:
        """The avatar before this backdrop."""
        if self.kind in ("keep", "alpha"):
            return canonical
        if self.kind == "given":
            return replace(canonical, background=self.given)
        pixels = canonical.background.image(SAMPLE_PX, SAMPLE_PX).reshape(-1, 3)
        return replace(canonical, background=Background.plain(np.median(pixels, 0)))


NOTHING = Background.plain(np.zeros(3))
KEEP = Behind("keep", NOTHING)


def read_background(text: str) -> Behind:
    """`keep`, `plain`, `alpha`, a colour (`white`, `#a0b0c0`) or the name of an image file. Raises UserError."""
    if text in ("keep", "plain", "alpha"):
        return Behind(text, NOTHING)
    path = Path(text)
    if path.is_file():
        return Behind("given", Room(to_uint8(read_image(path))))
    try:
        color = np.array(ImageColor.getrgb(text)[:3], np.float32) / 255
    except ValueError:
        raise UserError(
            f"--background: expected keep, plain, alpha, a colour such as white or #a0b0c0, or an image file, found {text!r}"
        ) from None
    return Behind("given", Background.plain(color))
