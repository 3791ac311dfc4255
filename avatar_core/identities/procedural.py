"""Identities backend `procedural`: sampled people, rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from avatar_core.identities import NewPerson


@dataclass(frozen=True)
class ProceduralIdentities:
    """Sampled so that small groups already differ in sex, age, skin, build, hair and clothes."""

    provides: ClassVar[frozenset[str]] = frozenset({"attributes"})
    needs: ClassVar[frozenset[str]] = frozenset()

    def people(self, count: int, seed: int) -> list[NewPerson]:
        """`count` sampled people."""
        from avatar_core.procedural.people import sample_identities

        return [NewPerson(i.id, i.seed, i.attributes) for i in sample_identities(count, seed, "identities")]

    def portrait(self, person: NewPerson, size: int) -> tuple[np.ndarray, dict[str, float]]:
        """(size,size,3) uint8, and the share of the foreground."""
        from avatar_core.procedural.people import (
            Identity,
            Person,
            framing_camera,
            neutral_face,
            relaxed_pose,
        )

        body = Person.build(Identity(person.id, person.seed, person.attributes))
        camera = framing_camera(body.vertices(None, relaxed_pose(), None), "portrait", size)
        image, alpha = body.render(neutral_face(), relaxed_pose(), np.zeros(3), camera, supersample=2)
        return image, {"foreground_share": float((alpha > 127).mean())}
