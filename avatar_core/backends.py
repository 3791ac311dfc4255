"""Registries of backends: what can make identities, speech, a teacher's clips, scores, detections.

A registry is a table name -> "package.module:Class". A backend is one frozen dataclass in one file: its fields are its parameters,
which params.yaml gives in a section of the backend's name and which are checked only when it is chosen. Two class variables say
what it `provides` to the stages after it and what it `needs` of those before (sets of CAPABILITIES). Strings, not imports: only
the chosen backend is loaded, and `python -m stages.deps` follows them.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar

from avatar_core.config import parse
from avatar_core.errors import UserError

C = TypeVar("C")

CAPABILITIES = {
    "attributes": "what a sampled person looks like, in numbers",
    "phonemes": "which sound is spoken when",
    "masks": "which pixels show the person",
    "camera": "about the field of view that each framing has by convention",
    "truth": "the surface that a clip really shows",
}


def backend_class(registry: Mapping[str, str], name: str, file: str, key: str) -> type[Any]:
    """The class that `registry` gives for `name`; UserError naming file and key when there is none."""
    if name not in registry:
        raise UserError(f"{file}: {key}: expected one of {', '.join(registry)}; found {name!r}")
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def parse_backend(registry: Mapping[str, str], name: Any, raw: Mapping[str, Any], file: str, key: str) -> Any:
    """The backend `name` with its parameters from `raw[name]` (left out: the backend's own values).

    file, key: for the error line, e.g. "params.yaml", "teacher". Sections of other backends are not looked at.
    """
    if not isinstance(name, str):
        raise UserError(
            f"{file}: {key}.backend: expected one of {', '.join(registry)}; found {name if name is not None else 'none'}"
        )
    cls = backend_class(registry, name, file, f"{key}.backend")
    return parse(cls, raw.get(name, {}), file, f"{key}.{name}")


def missing_capabilities(needs: Iterable[str], provided: Iterable[str]) -> list[str]:
    """Sorted capabilities that are needed and not provided."""
    needed = set(needs)
    assert needed <= set(CAPABILITIES), needed
    return sorted(needed - set(provided))


def parse_choices(
    cls: type[C], registries: Mapping[str, Mapping[str, str]], raw: Mapping[str, Any], file: str, key: str
) -> C:
    """A section some of whose keys name backends, e.g. {"backend": "embedded", "embedded": {"steps": 9}}.

    registries: key -> registry. The result's field `chosen` maps each such key to its backend.
    """
    if not isinstance(raw, Mapping):
        raise UserError(f"{file}: {key}: expected a section, found {raw!r}")
    names = {name for registry in registries.values() for name in registry}
    values: Any = parse(cls, {k: v for k, v in raw.items() if k not in names}, file, key)
    chosen = {}
    for role, registry in registries.items():
        name = getattr(values, role)
        backend = backend_class(registry, name, file, f"{key}.{role}")
        chosen[role] = parse(backend, raw.get(name, {}), file, f"{key}.{name}")
    return replace(values, chosen=chosen)


def default_backends(registries: Mapping[str, Mapping[str, str]], cls: type[Any]) -> dict[str, Any]:
    """`chosen` of a section with the class's own names and every backend's own parameters."""
    fields = {f.name: f.default for f in dataclasses.fields(cls)}
    return {role: backend_class(r, str(fields[role]), "", role)() for role, r in registries.items()}


def chosen_backends(registries: Mapping[str, Mapping[str, str]], values: Any) -> dict[str, Any]:
    """The plain dict from which `parse_choices` makes the roles of `values` again."""
    names = {role: getattr(values, role) for role in registries}
    return names | {names[role]: asdict(backend) for role, backend in values.chosen.items()}
