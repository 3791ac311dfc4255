"""Identities backend `folder`: your portraits, one file a person."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from avatar_core.config import given
from avatar_core.errors import UserError
from avatar_core.identities import NewPerson

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif", ".jp2")
MIN_SIDE = 256  # px


def photo_id(photo: Path) -> str:
    """The id of the person that a photo shows."""
    return f"photo-{hashlib.sha256(photo.read_bytes()).hexdigest()[:8]}"


@dataclass(frozen=True)
class FolderIdentities:
    """The first photos of `path` by name; a person's id is made from the photo's content."""

    provides: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    path: str = given("a folder of portraits")

    def people(self, count: int, seed: int) -> list[NewPerson]:
        """The first `count` photos; `seed` changes nothing. Raises UserError: no folder, too few photos, one of them twice."""
        folder = Path(self.path)
        if not folder.is_dir():
            raise UserError(f"identities.folder.path: expected a folder of portraits, found {folder}")
        photos = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if len(photos) < count:
            raise UserError(f"{folder}: expected {count} photos (train + val + test), found {len(photos)}")
        people: dict[str, NewPerson] = {}
        for photo in photos[:count]:
            name = photo_id(photo)
            if name in people:
                raise UserError(
                    f"{photo}: expected one photo a person, found the picture of {people[name].photo}"
                )
            people[name] = NewPerson(name, photo=photo)
        return list(people.values())

    def portrait(self, person: NewPerson, size: int) -> tuple[np.ndarray, dict[str, float]]:
        """The photo as it is, (H,W,3) in [0, 1]: personalising crops it itself. Raises UserError: not a picture, or too small."""
        from avatar_core.io.images import read_image

        assert person.photo is not None
        return read_image(person.photo, min_side=MIN_SIDE), {}
