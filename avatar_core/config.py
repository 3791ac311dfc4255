"""Frozen dataclasses as sections of a parameter file: a parameter is declared once, by the code that uses it.

    @dataclass(frozen=True)
    class FitConfig:
        iterations: int = ranged(12, 1)
        weights: FitWeights = section(FitWeights)

`parse(FitConfig, {"iterations": 20}, "params.yaml", "fit")` checks names, types and ranges (OmegaConf structured configs do the
types) and keeps the class's own value for every key that is left out. Everything wrong is one line: file, key, wanted, found.
Fields made by `derived` are no keys: the code fills them in (a seed, the number of latents).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avatar_core.errors import UserError

C = TypeVar("C")


def ranged(default: Any, low: float = 0, high: float = math.inf) -> Any:
    """A number within [low, high]."""
    return field(default=default, metadata={"low": low, "high": high})


def one_of(default: str, *options: str) -> Any:
    """One of some names, `default` among them."""
    return field(default=default, metadata={"options": (default, *(o for o in options if o != default))})


def given(what: str) -> Any:
    """A text without a value of its own, e.g. given("a folder of portraits"): whoever uses the section must give it."""
    return field(default="", metadata={"given": what})


def list_of(*default: Any) -> Any:
    """A list of values of one type."""
    return field(default_factory=lambda: list(default))


def section(cls: type[Any], **changed: Any) -> Any:
    """A nested section: `cls` with some values of its own."""
    return field(default_factory=lambda: cls(**changed))


def derived(default: Any) -> Any:
    """A value that the code fills in: no key of the parameter file."""
    return field(default=default, metadata={"derived": True})


def derived_by(factory: Callable[[], Any]) -> Any:
    """A value that the code makes anew for each config: no key of the parameter file."""
    return field(default_factory=factory, metadata={"derived": True})


def fields_of(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """Name -> field of the keys that a parameter file may give."""
    return {f.name: f for f in dataclasses.fields(cls) if not f.metadata.get("derived")}


def keys_of(values: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys of a config and its sections, e.g. "fit.weights.l1"."""
    for name in fields_of(type(values)):
        value = getattr(values, name)
        if dataclasses.is_dataclass(value):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def parse(cls: type[C], raw: Any, file: str, key: str = "") -> C:
    """Nested dicts -> an instance of `cls`. Raises UserError naming `file` and the key, which starts with `key`."""
    prefix = f"{key}." if key else ""
    if not isinstance(raw, Mapping):
        raise UserError(f"{file}: {f'{key}: ' if key else ''}expected a section of keys, found {_shown(raw)}")
    _check_keys(cls(), raw, file, prefix)
    config = OmegaConf.structured(cls)
    _make_writable(config)  # frozen dataclasses become read-only nodes, which merge() cannot fill
    try:
        values = OmegaConf.to_object(OmegaConf.merge(config, dict(raw)))
    except OmegaConfBaseException as error:
        wrong = getattr(error, "full_key", None) or getattr(error, "key", None) or "?"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{file}: {prefix}{wrong}: expected {_expected(cls(), wrong)}, found {_shown(_lookup(raw, wrong))} ({reason})"
        ) from None
    check_ranges(values, file, prefix)
    return cast(C, values)


def check_ranges(values: Any, file: str, prefix: str = "") -> None:
    """Raise UserError for the first value outside its range or its options, or not given."""
    for name, described in fields_of(type(values)).items():
        value, where, meta = getattr(values, name), f"{file}: {prefix}{name}", described.metadata
        if dataclasses.is_dataclass(value):
            check_ranges(value, file, f"{prefix}{name}.")
        elif "options" in meta and value not in meta["options"]:
            raise UserError(f"{where}: expected one of {', '.join(meta['options'])}; found {value!r}")
        elif "given" in meta and not value:
            raise UserError(f"{where}: expected {meta['given']}, found an empty name")
        elif "low" in meta and not (meta["low"] <= value <= meta["high"] and math.isfinite(value)):
            low, high = meta["low"], meta["high"]
            wanted = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
            raise UserError(f"{where}: expected {wanted}, found {value}")


def _check_keys(like: Any, raw: Mapping[str, Any], file: str, prefix: str) -> None:
    known = {name: getattr(like, name) for name in fields_of(type(like))}
    for key, value in raw.items():
        if key not in known:
            raise UserError(
                f"{file}: {prefix}{key}: expected one of {', '.join(known)}; found an unknown key"
            )
        kind = type(known[key])
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise UserError(f"{file}: {prefix}{key}: expected a section, found {_shown(value)}")
            _check_keys(known[key], value, file, f"{prefix}{key}.")
        elif _wrong_kind(kind, value):
            raise UserError(f"{file}: {prefix}{key}: expected {_kind(known[key])}, found {_shown(value)}")


def _wrong_kind(kind: type, value: Any) -> bool:
    """What OmegaConf would quietly convert, and interpolations (DVC reads the file as it is)."""
    if value is None or "${" in str(value):
        return True
    if kind is bool:
        return not isinstance(value, bool)
    if kind in (int, float):
        return isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int)
    if kind in (list, tuple):
        return not isinstance(value, list) or any(isinstance(v, bool) for v in value)
    if kind is dict:
        return not isinstance(value, Mapping)
    return kind is str and not isinstance(value, str)


def _make_writable(node: Any) -> None:
    OmegaConf.set_readonly(node, False)
    for key in node if OmegaConf.is_dict(node) else ():
        if OmegaConf.is_config(node[key]):
            _make_writable(node[key])


def _lookup(raw: Any, key: str) -> Any:
    for name in key.replace("[", ".").replace("]", "").split("."):
        try:
            raw = raw[int(name)] if isinstance(raw, list) else raw[name]
        except (KeyError, TypeError, ValueError, IndexError):
            return None
    return raw


def _expected(values: Any, key: str) -> str:
    for name in key.split("[")[0].split("."):
        values = getattr(values, name, None)
    return _kind(values)


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a list of {type(value[0]).__name__}" if value else "a list"
    return "a table" if isinstance(value, dict) else type(value).__name__


def _shown(value: Any) -> str:
    return "none" if value is None else repr(value)
