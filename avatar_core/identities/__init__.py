"""Identities: who the people are and what they look like in one portrait. A backend is one file here and one line below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from avatar_core.device import Compute
    from avatar_core.models.card import Card

BACKENDS = {
    "procedural": "avatar_core.identities.procedural:ProceduralIdentities",
    "folder": "avatar_core.identities.folder:FolderIdentities",
    "diffusers": "avatar_core.identities.diffusion:DiffusionIdentities",
}


@dataclass(frozen=True)
class NewPerson:
    """A person before the splits: a unique id, a seed of its own, what it looks like (JSON-able), or the photo that shows it."""

    id: str
    seed: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)
    photo: Path | None = None


class PeopleSource(Protocol):
    """Where people come from. `provides` "attributes" when `NewPerson.attributes` says exactly what a person looks like."""

    @property
    def provides(self) -> frozenset[str]: ...
    @property
    def needs(self) -> frozenset[str]: ...

    def people(self, count: int, seed: int) -> list[NewPerson]:
        """`count` different people; the same for the same seed. Raises UserError when there are not so many."""
        ...


class IdentityBackend(PeopleSource, Protocol):
    """People whose portraits are made one by one, in the stage's workers."""

    def portrait(self, person: NewPerson, size: int) -> tuple[np.ndarray, dict[str, float]]:
        """Picture (H,W,3), uint8 or float in [0, 1], and numbers for quality control. `size` px is asked for, not promised."""
        ...


@runtime_checkable
class PortraitModel(PeopleSource, Protocol):
    """People whose portraits come from a published model, which is loaded once."""

    @property
    def card(self) -> Card: ...

    def portraits(
        self, people: Sequence[NewPerson], compute: Compute
    ) -> Iterator[tuple[NewPerson, np.ndarray, dict[str, float]]]:
        """Each of the people with picture (H,W,3) uint8 and numbers for quality control. UserError before the model is loaded."""
        ...
