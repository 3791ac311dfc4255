"""Contact sheet of identities: full body, portrait and face of each, one column a person."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avatar_core.procedural.people.framing import framing_camera
from avatar_core.procedural.people.identity import Identity
from avatar_core.procedural.people.person import Person
from avatar_core.procedural.people.poses import neutral_face, relaxed_pose


def contact_sheet(
    identities: Sequence[Identity],
    size: int = 256,
    framings: Sequence[str] = ("full_body", "portrait", "face"),
    columns: int = 8,
) -> np.ndarray:
    """(rows * size, columns * size, 3) uint8 sRGB; people run left to right and wrap after `columns`."""
    if not identities:
        raise ValueError("identities: expected at least one, found none")
    strips = []
    for identity in identities:
        person = Person.build(identity)
        vertices = person.vertices(None, relaxed_pose(), None)
        cameras = [framing_camera(vertices, framing, size) for framing in framings]
        strips.append(
            np.concatenate([person.render(neutral_face(), relaxed_pose(), None, c)[0] for c in cameras], 0)
        )
    columns = min(columns, len(strips))
    while len(strips) % columns:
        strips.append(np.full_like(strips[0], 255))
    rows = [np.concatenate(strips[i : i + columns], 1) for i in range(0, len(strips), columns)]
    return np.concatenate(rows, 0)
