"""params.yaml as frozen dataclasses: one per section, checked once when a stage starts.

OmegaConf structured configs give unknown keys and wrong types; `low`, `high` and `options` on the fields give the ranges; `check`
gives what several keys owe each other. Everything wrong is one line naming the key, what it expects and what it found. The values
are those of the `laptop` profile. No interpolation: DVC reads the raw file.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avatar_core.errors import UserError

PARAMS = Path("params.yaml")


def num(default: Any, low: float = 0, high: float = math.inf) -> Any:
    """A number within [low, high]."""
    return field(default=default, metadata={"low": low, "high": high})


def one_of(default: str, *options: str) -> Any:
    """One of some names."""
    return field(default=default, metadata={"options": options})


def some(*default: Any) -> Any:
    """A list."""
    return field(default_factory=lambda: list(default))


def part(cls: Any) -> Any:
    """A nested section."""
    return field(default_factory=cls)


@dataclass(frozen=True)
class Run:
    """Shared by all stages. `workers` processes change nothing in the results; `threads` of the training loops do."""

    seed: int = num(7)
    shards: list[int] = some(0, 1)  # a list because DVC's matrix is made from it; always 0, 1, 2, ...
    workers: int = num(2, 1, 256)
    threads: int = num(2, 1, 256)


@dataclass(frozen=True)
class Identities:
    backend: str = one_of("procedural", "procedural", "folder")
    folder: str = ""  # backend folder: your portraits, one file a person
    train: int = num(6, 1)
    val: int = num(1)
    test: int = num(3, 1)
    portrait_size: int = num(768, 256, 4096)

    @property
    def total(self) -> int:
        return self.train + self.val + self.test


@dataclass(frozen=True)
class Speech:
    backend: str = one_of("espeak", "espeak", "folder")
    folder: str = ""  # backend folder: your recordings
    languages: list[str] = some("en", "de", "es", "fr", "cmn")
    face_clips: int = num(60, 1)  # close to the face, over all train identities: lips need many short ones
    waist_up_clips: int = num(12)  # gestures need fewer
    full_body_clips: int = num(3)
    val_clips: int = num(3)
    test_clips: int = num(2, 1)  # sentences per test identity
    max_seconds: float = num(4.0, 0.5, 60)


@dataclass(frozen=True)
class Tracks:
    points: int = num(160, 8)
    reseed_every: int = num(12, 1)
    spacing: float = num(6.0, 1)  # px
    max_forward_backward: float = num(0.8, 0.01)  # px


@dataclass(frozen=True)
class Teacher:
    backend: str = one_of("procedural", "procedural", "folder")
    folder: str = ""  # backend folder: your recorded clips
    size: int = num(256, 96, 2048)  # px, face and waist-up frames
    full_body_size: int = num(256, 96, 2048)
    supersample: int = num(2, 1, 4)
    crf: int = num(12, 0, 40)
    tracks: Tracks = part(Tracks)


@dataclass(frozen=True)
class Score:
    size: int = num(32, 16, 512)  # px, a window on the mouth
    frames: int = num(8, 1, 256)
    steps: int = num(700, 1)
    batch: int = num(4, 1)
    learning_rate: float = num(1e-3, 1e-8, 1)
    channels: int = num(24, 8, 1024)


@dataclass(frozen=True)
class Particles:
    """How many Gaussians where; shared by every identity."""

    face: int = num(5200, 100, 1_000_000)
    hand: int = num(1100, 50, 1_000_000)  # each
    eyes: int = num(400, 20, 1_000_000)
    mouth_interior: int = num(420, 20, 1_000_000)
    body: int = num(5600, 100, 1_000_000)
    shell: int = num(6000, 0, 1_000_000)  # hair, clothes that stand off the body, fine patterns
    seed: int = num(0)


@dataclass(frozen=True)
class FitWeights:
    l1: float = num(1.0)
    ssim: float = num(0.2)
    face: float = num(0.6)
    hand: float = num(0.15)
    tracks: float = num(0.02)
    arap: float = num(1.0)
    locality: float = num(0.05)
    spectral: float = num(0.3)
    mask: float = num(0.1)
    keypoints: float = num(0.004)


@dataclass(frozen=True)
class Fit:
    portrait_iterations: int = num(260, 2)
    iterations: int = num(12, 1)
    batch: int = num(16, 1)
    weights: FitWeights = part(FitWeights)


@dataclass(frozen=True)
class Embed:
    body: int = num(24, 1, 512)
    face: int = num(32, 1, 512)
    hand: int = num(8, 1, 512)
    contrastive_steps: int = num(200)
    decoder_steps: int = num(300)
    patch: int = num(8, 1)


@dataclass(frozen=True)
class Generator:
    width: int = num(128, 16)
    audio_blocks: int = num(2, 1)
    dit_blocks: int = num(2, 1)
    heads: int = num(4, 1)
    window: int = num(64, 8)
    batch: int = num(16, 1)
    steps: int = num(900, 1)
    learning_rate: float = num(2e-3, 1e-8, 1)
    audio_dropout: float = num(0.1, 0, 1)


@dataclass(frozen=True)
class DistillWeights:
    simple: float = num(1.0)
    vsd: float = num(0.02)
    trajectory: float = num(10.0)
    l1: float = num(1.0)
    arap: float = num(0.1)


@dataclass(frozen=True)
class Distill:
    steps: int = num(150, 1)
    batch_frames: int = num(8, 1)
    size: int = num(128, 32, 2048)
    learning_rate: float = num(1e-4, 1e-8, 1)
    weights: DistillWeights = part(DistillWeights)


@dataclass(frozen=True)
class Generate:
    """Sampling, wherever motion is generated."""

    steps: int = num(5, 1, 1000)
    guidance: float = num(1.0, 0, 20)


@dataclass(frozen=True)
class Evaluate:
    bootstrap: int = num(1000, 1)
    fvd_frames: int = num(16, 4)


@dataclass(frozen=True)
class Params:
    run: Run = part(Run)
    identities: Identities = part(Identities)
    speech: Speech = part(Speech)
    teacher: Teacher = part(Teacher)
    score: Score = part(Score)
    particles: Particles = part(Particles)
    fit: Fit = part(Fit)
    embed: Embed = part(Embed)
    generator: Generator = part(Generator)
    distill: Distill = part(Distill)
    generate: Generate = part(Generate)
    evaluate: Evaluate = part(Evaluate)


def load_params(path: str | os.PathLike = PARAMS) -> Params:
    """Read and check params.yaml; every key must be there. Raises UserError naming file and key."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected a parameter file, found no such file")
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}: {where}expected YAML, found {getattr(error, 'problem', error)}") from None
    return parse_params(raw, str(path))


def parse_params(raw: Any, name: str = "params.yaml") -> Params:
    """Plain nested dicts -> Params. Raises UserError naming `name` and the key."""
    if not isinstance(raw, dict):
        raise UserError(f"{name}: expected sections of parameters, found {type(raw).__name__}")
    try:
        _check_keys(raw, Params(), name, "")
        config = OmegaConf.structured(Params)
        _make_writable(config)  # frozen dataclasses become read-only nodes, which merge() cannot fill
        values = OmegaConf.to_object(OmegaConf.merge(config, raw))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or getattr(error, "key", None) or "?"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name}: {key}: expected {_expected(key)}, found {_lookup(raw, key)!r} ({reason})"
        ) from None
    assert isinstance(values, Params)
    _check_ranges(values, name, "")
    check(values, name)
    return values


def check(params: Params, name: str) -> None:
    """What several keys owe each other."""
    shards, people = params.run.shards, params.identities.total
    if not shards or shards != list(range(len(shards))):
        raise UserError(f"{name}: run.shards: expected [0, 1, 2, ...] without gaps, found {shards}")
    if len(shards) > people:
        raise UserError(
            f"{name}: run.shards: expected at most {people} shards (train + val + test identities), found {len(shards)}"
        )
    if params.generator.width % params.generator.heads:
        raise UserError(
            f"{name}: generator.heads: expected a divisor of generator.width {params.generator.width}, "
            f"found {params.generator.heads}"
        )
    for section in ("identities", "speech", "teacher"):
        values = getattr(params, section)
        if values.backend == "folder" and not values.folder:
            raise UserError(
                f"{name}: {section}.folder: expected a folder for backend 'folder', found an empty name"
            )


def _check_keys(raw: dict, like: Any, name: str, prefix: str) -> None:
    known = {f.name: getattr(like, f.name) for f in dataclasses.fields(like)}
    for key, value in raw.items():
        if key not in known:
            raise UserError(
                f"{name}: {prefix}{key}: expected one of {', '.join(known)}; found an unknown key"
            )
        kind = type(known[key])
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise UserError(f"{name}: {prefix}{key}: expected a section, found {value!r}")
            _check_keys(value, known[key], name, f"{prefix}{key}.")
        elif _wrong_kind(kind, value):
            raise UserError(f"{name}: {prefix}{key}: expected {kind.__name__}, found {value!r}")
    missing = [key for key in known if key not in raw]
    if missing:
        raise UserError(f"{name}: {prefix}{missing[0]}: expected a value, found none")


def _wrong_kind(kind: type, value: Any) -> bool:
    """What OmegaConf would quietly convert, and interpolations."""
    if value is None or "${" in str(value):
        return True
    if kind in (int, float) and isinstance(value, bool):
        return True
    if kind is int and isinstance(value, float):
        return True
    if kind is list:
        return not isinstance(value, list) or any(isinstance(v, (float, bool)) for v in value)
    return kind is str and not isinstance(value, str)


def _make_writable(node: Any) -> None:
    OmegaConf.set_readonly(node, False)
    for key in node if OmegaConf.is_dict(node) else ():
        if OmegaConf.is_config(node[key]):
            _make_writable(node[key])


def _check_ranges(values: Any, name: str, prefix: str) -> None:
    for f in dataclasses.fields(values):
        value, key = getattr(values, f.name), f"{name}: {prefix}{f.name}"
        if dataclasses.is_dataclass(value):
            _check_ranges(value, name, f"{prefix}{f.name}.")
        elif "options" in f.metadata and value not in f.metadata["options"]:
            raise UserError(f"{key}: expected one of {', '.join(f.metadata['options'])}; found {value!r}")
        elif "low" in f.metadata:
            low, high = f.metadata["low"], f.metadata["high"]
            if not (low <= value <= high and math.isfinite(value)):
                wanted = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
                raise UserError(f"{key}: expected {wanted}, found {value}")


def _lookup(raw: Any, key: str) -> Any:
    for name in key.replace("[", ".").replace("]", "").split("."):
        try:
            raw = raw[int(name)] if isinstance(raw, list) else raw[name]
        except (KeyError, TypeError, ValueError, IndexError):
            return None
    return raw


def _expected(key: str) -> str:
    value: Any = Params()
    for name in key.split("[")[0].split("."):
        value = getattr(value, name, None)
    if isinstance(value, list) and value:
        return f"a list of {type(value[0]).__name__}"
    return type(value).__name__
