"""params.yaml as frozen dataclasses, checked once when a stage starts: a section is the config of the library that reads it.

What a key means, its range and its value where the file leaves it out stand beside the field in the library (`avatar_core.config`).
Here is what only the pipeline knows: people, clips, shards, and what several keys owe each other. Everything wrong is one line that
names the key, what it expects and what it found. No interpolation: DVC reads the raw file.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from avatar_core.audio.backends import AudioConfig
from avatar_core.backends import backend_class, default_backends, parse_choices
from avatar_core.config import derived_by, list_of, one_of, parse, ranged, section
from avatar_core.device import PRECISIONS, check_device
from avatar_core.distill.config import DistillConfig
from avatar_core.embed.config import AlignedConfig, CodecConfig, ContrastiveConfig
from avatar_core.errors import UserError
from avatar_core.fit.config import FitConfig
from avatar_core.generator.config import GeneratorConfig, SampleConfig, TrainConfig
from avatar_core.metrics.suite import METRICS, all_metrics
from avatar_core.models.card import Published
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.personalise.config import PersonaliseConfig
from avatar_core.score import BACKENDS as SCORE_TEACHERS
from avatar_core.score import ScoreBackend
from stages.sections import BASELINES, IdentitiesParams, SpeechParams, TeacherParams, check_backends

PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class RunParams:
    """Shared by all stages. `workers` processes change nothing in the results; `threads` of the training loops do, and so do the
    device, the precision and (in the last digits) the processes of a training: dependencies of the stages that compute there, so
    that the lock says what made the bytes."""

    seed: int = ranged(7)
    shards: list[int] = list_of(0, 1)  # a list because DVC's matrix is made from it; always 0, 1, 2, ...
    workers: int = ranged(2, 1, 256)
    threads: int = ranged(2, 1, 256)
    device: str = "cpu"  # auto, cpu, cuda or cuda:N
    precision: str = one_of(*PRECISIONS)  # of networks in training
    processes: int = ranged(1, 1, 64)  # that share each batch of a training, on a GPU each


@dataclass(frozen=True)
class ScoreParams:
    """Which score teacher; its parameters in a section of its name."""

    backend: str = "embedded"
    chosen: dict[str, Any] = derived_by(lambda: default_backends({"backend": SCORE_TEACHERS}, ScoreParams))

    @classmethod
    def parse(cls, raw: Mapping[str, Any], file: str, key: str) -> ScoreParams:
        return parse_choices(cls, {"backend": SCORE_TEACHERS}, raw, file, key)

    @property
    def teacher(self) -> ScoreBackend:
        return cast(ScoreBackend, self.chosen["backend"])


@dataclass(frozen=True)
class EmbedParams:
    codec: CodecConfig = section(CodecConfig)
    contrastive: ContrastiveConfig = section(ContrastiveConfig)
    aligned: AlignedConfig = section(AlignedConfig)


@dataclass(frozen=True)
class GeneratorParams:
    model: GeneratorConfig = section(GeneratorConfig)
    train: TrainConfig = section(TrainConfig)


@dataclass(frozen=True)
class BaselineParams:
    steps: int = ranged(400)  # as many as generator.train.steps for a fair row; 0 leaves the row out


@dataclass(frozen=True)
class EvaluateParams:
    """Which metrics, and which published systems beside ours; sections of their names have their parameters (of a metric: path and
    sha256 of a published network or its scores; of a baseline: path of its videos, or its program's)."""

    bootstrap: int = ranged(1000, 1)  # resamplings of the clips behind each interval
    metrics: list[str] = list_of(*METRICS)
    baselines: list[str] = list_of()
    video_diffusion: bool = True  # the row sampled from the embedded score teacher
    chosen: dict[str, Any] = derived_by(all_metrics)  # name -> Metric
    compared: dict[str, Any] = derived_by(dict)  # name -> Baseline

    @classmethod
    def parse(cls, raw: Any, file: str, key: str) -> EvaluateParams:
        tables = {**METRICS, **BASELINES}
        own = {k: v for k, v in raw.items() if k not in tables} if isinstance(raw, Mapping) else raw
        values = parse(cls, own, file, key)

        def sections(names: list[str], table: Mapping[str, str], where: str) -> dict[str, Any]:
            classes = {name: backend_class(table, name, file, f"{key}.{where}") for name in names}
            return {n: parse(c, raw.get(n, {}), file, f"{key}.{n}") for n, c in classes.items()}

        return dataclasses.replace(
            values,
            chosen=sections(values.metrics, METRICS, "metrics"),
            compared=sections(values.baselines, BASELINES, "baselines"),
        )


@dataclass(frozen=True)
class Params:
    """All sections. A section class with a `parse` of its own names backends."""

    run: RunParams = section(RunParams)
    identities: IdentitiesParams = section(IdentitiesParams)
    speech: SpeechParams = section(SpeechParams)
    teacher: TeacherParams = section(TeacherParams)
    perception: PerceptionConfig = section(PerceptionConfig)
    audio: AudioConfig = section(AudioConfig)  # what the generator hears
    score: ScoreParams = section(ScoreParams)
    particles: ParticleBudgets = section(ParticleBudgets)
    personalise: PersonaliseConfig = section(PersonaliseConfig)
    fit: FitConfig = section(FitConfig)
    embed: EmbedParams = section(EmbedParams)
    generator: GeneratorParams = section(GeneratorParams)
    baseline: BaselineParams = section(BaselineParams)
    distill: DistillConfig = section(DistillConfig)
    sample: SampleConfig = section(SampleConfig)  # wherever motion is generated
    evaluate: EvaluateParams = section(EvaluateParams)

    @property
    def avatar(self) -> PersonaliseConfig:
        """How a portrait becomes an avatar, with the particles that it has."""
        return dataclasses.replace(self.personalise, particles=self.particles)


def load_params(path: str | os.PathLike[str] = PARAMS) -> Params:
    """Read and check params.yaml. Raises UserError naming file and key."""
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
    known = {f.name: type(getattr(Params(), f.name)) for f in dataclasses.fields(Params)}
    for key in raw:
        if key not in known:
            raise UserError(f"{name}: {key}: expected one of {', '.join(known)}; found an unknown key")
    sections: dict[str, Any] = {}
    for key, cls in known.items():
        if key not in raw:
            raise UserError(f"{name}: {key}: expected a section, found none")
        own = getattr(cls, "parse", None)
        sections[key] = own(raw[key], name, key) if own else parse(cls, raw[key], name, key)
    params = Params(**sections)
    check(params, name)
    return params


def check(params: Params, name: str) -> None:
    """What several keys owe each other."""
    check_device(params.run.device, f"{name}: run.device")
    shards, people = params.run.shards, params.identities.total
    if not shards or shards != list(range(len(shards))):
        raise UserError(f"{name}: run.shards: expected [0, 1, 2, ...] without gaps, found {shards}")
    if len(shards) > people:
        raise UserError(
            f"{name}: run.shards: expected at most {people} shards (train + val + test identities), found {len(shards)}"
        )
    for key, net in (("dit", params.generator.model.dit), ("refiner", params.generator.model.refiner)):
        if net.channels % net.heads:
            raise UserError(
                f"{name}: generator.model.{key}.heads: expected a divisor of channels {net.channels}, found {net.heads}"
            )
    codec = params.embed.codec
    if codec.head_dims >= codec.body_dims:
        raise UserError(
            f"{name}: embed.codec.head_dims: expected less than body_dims {codec.body_dims}, found {codec.head_dims}"
        )
    low, high = (params.distill.vsd_tau + [0, 0])[:2]
    if len(params.distill.vsd_tau) != 2 or not 0 <= low < high <= 1:
        raise UserError(
            f"{name}: distill.vsd_tau: expected [least, most] within 0 to 1, found {params.distill.vsd_tau}"
        )
    check_processes(params, name)
    check_backends(params.identities, params.speech, params.teacher, name)


def check_processes(params: Params, name: str) -> None:
    """Several processes of a training share each batch evenly, each on a GPU of its own."""
    count = params.run.processes
    if count == 1:
        return
    if params.run.device.startswith("cuda:"):
        raise UserError(
            f"{name}: run.device: expected cuda where run.processes is {count}, found {params.run.device}"
        )
    if params.distill.variational:
        raise UserError(
            f"{name}: distill.variational: expected false where run.processes is {count}, found true"
        )
    if isinstance(params.score.teacher, Published):  # it would be sent to each of them, weights and all
        raise UserError(
            f"{name}: score.backend: expected embedded where run.processes is {count}, found {params.score.backend}"
        )
    shared = {
        f"score.{params.score.backend}.batch": getattr(params.score.teacher, "batch", count),
        "embed.contrastive.batch": params.embed.contrastive.batch,
        "generator.train.batch": params.generator.train.batch,
        "distill.simple.batch": params.distill.simple.batch,
        "distill.clips": params.distill.clips,
    }
    for key, found in shared.items():
        if found % count:
            raise UserError(f"{name}: {key}: expected a multiple of run.processes {count}, found {found}")
