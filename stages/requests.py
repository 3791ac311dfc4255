"""What a teacher or a baseline is asked for: one clip of the catalogue, as a `ClipRequest`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatar_core.speech.types import phonemes_from_json
from avatar_core.teacher import ClipRequest
from stages.artifacts import Artifacts, PersonRecord, Row


def clip_request(
    data: Artifacts,
    row: Row,
    person: PersonRecord,
    *,
    size: int,
    seed: int,
    audio: np.ndarray | None = None,
    driving: Path | None = None,
) -> ClipRequest:
    """The request for a catalogue row; audio (S,): its sound where it is at hand. The rest see `ClipRequest`."""
    name = row["id"]
    return ClipRequest(
        name=name,
        identity=person.id,
        person_seed=person.seed,
        attributes=person.attributes,
        portrait=data.portrait_file(person.id),
        speech=phonemes_from_json(data.phonemes_file(name), data.audio(name) if audio is None else audio),
        framing=row["framing"],
        size=size,
        seed=seed,
        driving=driving,
    )
