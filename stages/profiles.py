"""Profiles: `params/laptop.yaml` is complete, the others say only what differs; `use` writes the sum into params.yaml."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from avatar_core.errors import UserError
from avatar_core.io.atomic import atomic_file
from stages.params import PARAMS, load_params, parse_params

FOLDER = Path("params")
BASE = "laptop"
NAMES = ("smoke", "laptop", "studio-lite", "studio", "cluster")


def profile_values(name: str, root: Path = Path(".")) -> dict[str, Any]:
    """All values of a profile, checked. Raises UserError for an unknown name or a bad file."""
    return _read(name, root)[1]


def use_profile(name: str, root: Path = Path(".")) -> list[Path]:
    """Write profile `name` into params.yaml (comments of the laptop profile kept); returns the stale shards it removed.

    Outputs of shards that the profile no longer has would count as inputs of later stages. DVC's cache still has them.
    """
    document, values = _read(name, root)
    with atomic_file(root / PARAMS) as temporary:
        if name == BASE:
            shutil.copyfile(root / FOLDER / f"{BASE}.yaml", temporary)
        else:
            with open(temporary, "w") as file:
                _yaml().dump(document, file)
    return _drop_shards(root, set(values["run"]["shards"]))


def change_params(changes: Mapping[str, Any], root: Path = Path(".")) -> list[Path]:
    """Write `changes`, {"distill.weights.vsd": 0}, into params.yaml; returns the stale shards it removed.

    Raises UserError for a key that is not there or a value that it cannot have; params.yaml then stays as it was.
    """
    path = root / PARAMS
    load_params(path)
    document = _yaml().load(path)
    for key, value in changes.items():
        *sections, last = key.split(".")
        node = document
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UserError(f"{path}: {key}: expected a section at {section}, found {node!r}")
        node[last] = value
    values = _plain(document)
    parse_params(values, str(path))
    with atomic_file(path) as temporary, open(temporary, "w") as file:
        _yaml().dump(document, file)
    return _drop_shards(root, set(values["run"]["shards"]))


def _drop_shards(root: Path, keep: set[int]) -> list[Path]:
    stale = [
        p
        for stage in ("teacher", "truth", "fit", "reports/teacher", "reports/fit")
        for p in _stale(root, stage, keep)
    ]
    for path in stale:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return stale


def active_profile(root: Path = Path(".")) -> tuple[str | None, dict[str, tuple[Any, Any]]]:
    """(the profile that params.yaml equals or None, what differs from the nearest: {key: (profile's value, value in use)})."""
    load_params(root / PARAMS)
    current = _flat(yaml.safe_load((root / PARAMS).read_text()))
    differences = {}
    for name in NAMES:
        wanted = _flat(profile_values(name, root))
        differences[name] = {
            k: (wanted.get(k), current.get(k))
            for k in sorted(wanted | current)
            if wanted.get(k) != current.get(k)
        }
    nearest = min(NAMES, key=lambda n: len(differences[n]))
    return (nearest if not differences[nearest] else None), differences[nearest]


def _stale(root: Path, folder: str, keep: set[int]) -> list[Path]:
    found = (root / "data" / folder).glob("shard-*")
    return sorted(
        p for p in found if p.name.removeprefix("shard-").removesuffix(".zarr") not in {str(k) for k in keep}
    )


def _read(name: str, root: Path) -> tuple[Any, dict[str, Any]]:
    if name not in NAMES:
        raise UserError(f"profile: expected one of {', '.join(NAMES)}; found {name!r}")
    document = _yaml().load(root / FOLDER / f"{BASE}.yaml")
    if name != BASE:
        _overlay(document, _yaml().load(root / FOLDER / f"{name}.yaml"))
    values = _plain(document)
    parse_params(values, str(FOLDER / f"{name}.yaml"))
    return document, values


def _overlay(base: Any, change: Any) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _overlay(base[key], value)
        else:
            base[key] = value


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(k): _plain(v) for k, v in node.items()}
    if isinstance(node, list):
        return [_plain(v) for v in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _yaml() -> YAML:
    reader = YAML()
    reader.width = 4096
    reader.preserve_quotes = True
    return reader
