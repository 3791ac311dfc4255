"""What is known of a published model before it is downloaded, and what a backend that needs one tells `avatar doctor`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from avatar_core.errors import UserError

if TYPE_CHECKING:
    from avatar_core.device import Compute

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """id: the hub's name of a model, or the project that publishes it; revision: the commit in use, "" where none is chosen; url:
    where it comes from.

    training: may another model be trained on what it makes, as far as its licence says: yes, no, conditions or unknown; note: the
    clause behind that. gpu_gb: memory that its makers report, or an estimate from its weights' size (docs/full.md says), 0 where
    neither is known. Licences are as their pages stated them; read them before you rely on it.
    """

    id: str
    licence: str
    training: str
    note: str = ""
    gpu_gb: float = 0.0
    revision: str = ""
    url: str = ""

    @property
    def row(self) -> dict[str, str]:
        """The catalogue's columns."""
        return {"model": self.id, "revision": self.revision, "licence": self.licence}


@runtime_checkable
class Published(Protocol):
    """A backend that runs a published model."""

    @property
    def card(self) -> Card: ...

    def lacking(self) -> list[str]:
        """What keeps it from running, a line each: expected, found, next step. Looks at no more than names, sizes and headers."""
        ...

    def folders(self) -> dict[Path, str]:
        """Folders of its files, or its files, each with the digest that was declared for it, "" for a snapshot of the hub.

        Raises UserError where there are none.
        """
        ...


def failures(*checks: Callable[[], object]) -> list[str]:
    """The lines of the checks that raise a UserError."""
    lines = []
    for check in checks:
        try:
            check()
        except UserError as error:
            lines.append(str(error))
    return lines


def need_packages(where: str, extra: str, *modules: str) -> None:
    """Raises UserError, starting with `where`, when a module of an extra is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{where}: expected the packages of the extra `{extra}`, found no {', '.join(missing)}; "
            f"pip install 'audioavatar[{extra}]'"
        )


def need_memory(where: str, gpu_gb: float, compute: Compute) -> None:
    """Raises UserError when the GPU in use has less memory than a model is said to need; a CPU is not looked at."""
    if not (compute.on_card and gpu_gb):
        return
    import torch

    found = torch.cuda.get_device_properties(compute.device).total_memory / GIB
    if found < gpu_gb * 0.95:  # a card of 16 GB reports a little less
        raise UserError(
            f"{where}: expected a GPU of {gpu_gb:g} GB, found {found:.1f} GB on {compute.device}; "
            "a smaller model, or `offload`, needs less"
        )


def start(where: str, backend: Published, compute: Compute) -> None:
    """Raise UserError for the first thing that keeps a backend from running, before any work."""
    for line in backend.lacking():
        raise UserError(line)
    need_memory(where, backend.card.gpu_gb, compute)
