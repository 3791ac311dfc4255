"""The sections of params.yaml that say who makes people, sounds and videos: shared keys, the choice, sections of backends' names.

    identities: {backend: folder, train: 6, ..., folder: {path: photos}}
    teacher: {backends: {procedural: 0.7, folder: 0.3}, size: 256, ..., folder: {path: videos}}

The section of a backend that is not chosen is not looked at; where that of a chosen one is left out, its own values hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from avatar_core import identities, speech, teacher
from avatar_core.backends import (
    backend_class,
    default_backends,
    missing_capabilities,
    parse_backend,
    parse_choices,
)
from avatar_core.config import derived_by, parse, ranged
from avatar_core.errors import UserError

# published systems that `evaluate` compares ours with; what trains nothing here is no teacher
BASELINES = {
    "lhm": "avatar_core.teacher.baselines:LHM",
    "persona": "avatar_core.teacher.baselines:Persona",
    "echomimic_v2": "avatar_core.teacher.baselines:EchoMimicBaseline",
    "omniavatar": "avatar_core.teacher.baselines:OmniAvatarBaseline",
    "hunyuan_video_avatar": "avatar_core.teacher.baselines:HunyuanVideoAvatar",
}


@dataclass(frozen=True)
class IdentitiesParams:
    backend: str = "procedural"
    train: int = ranged(6, 1)
    val: int = ranged(4)
    test: int = ranged(3)  # without any, evaluate has nobody to judge
    portrait_size: int = ranged(768, 256, 4096)  # px
    chosen: dict[str, Any] = derived_by(
        lambda: default_backends({"backend": identities.BACKENDS}, IdentitiesParams)
    )

    @classmethod
    def parse(cls, raw: Mapping[str, Any], file: str, key: str) -> IdentitiesParams:
        """Raises UserError naming `file` and the key below `key`."""
        return parse_choices(cls, {"backend": identities.BACKENDS}, raw, file, key)

    @property
    def source(self) -> identities.IdentityBackend | identities.PortraitModel:
        return self.chosen["backend"]

    @property
    def total(self) -> int:
        return self.train + self.val + self.test


@dataclass(frozen=True)
class SpeechParams:
    backend: str = "espeak"
    face_clips: int = ranged(60, 1)  # close to the face, over all train identities: lips need many short ones
    waist_up_clips: int = ranged(12)  # gestures need fewer
    full_body_clips: int = ranged(3)
    val_clips: int = ranged(8)
    val_waist_up_clips: int = ranged(4)
    test_clips: int = ranged(2, 1)  # sentences per test identity
    max_seconds: float = ranged(4.0, 0.5, 60)
    chosen: dict[str, Any] = derived_by(lambda: default_backends({"backend": speech.BACKENDS}, SpeechParams))

    @classmethod
    def parse(cls, raw: Mapping[str, Any], file: str, key: str) -> SpeechParams:
        """Raises UserError naming `file` and the key below `key`."""
        return parse_choices(cls, {"backend": speech.BACKENDS}, raw, file, key)

    @property
    def source(self) -> speech.SpeechBackend | speech.VoiceModel:
        return self.chosen["backend"]


@dataclass(frozen=True)
class TeacherParams:
    backends: dict[str, float] = field(default_factory=lambda: {"procedural": 1.0})  # name -> weight
    size: int = ranged(256, 96, 2048)  # px, face and waist-up frames
    full_body_size: int = ranged(256, 96, 2048)
    crf: int = ranged(12, 0, 40)  # H.264 quality, 0 best
    chosen: dict[str, Any] = derived_by(
        lambda: {"procedural": backend_class(teacher.BACKENDS, "procedural", "", "")()}
    )

    @classmethod
    def parse(cls, raw: Mapping[str, Any], file: str, key: str) -> TeacherParams:
        """Raises UserError naming `file` and the key below `key`. A weight of 0 is as good as none."""
        if not isinstance(raw, Mapping):
            raise UserError(f"{file}: {key}: expected a section, found {raw!r}")
        shared = {k: v for k, v in raw.items() if k not in teacher.BACKENDS and k != "backends"}
        values = parse(cls, shared, file, key)
        weights = _weights(raw.get("backends", values.backends), f"{file}: {key}.backends")
        chosen = {n: parse_backend(teacher.BACKENDS, n, raw, file, key) for n, w in weights.items() if w > 0}
        return replace(values, backends=weights, chosen=chosen)

    @property
    def sources(self) -> Mapping[str, teacher.TeacherBackend | teacher.VideoModel]:
        """The teachers that share the clips, by name."""
        return self.chosen


def _weights(raw: Any, where: str) -> dict[str, float]:
    if not isinstance(raw, Mapping) or not raw:
        raise UserError(f"{where}: expected weights by name such as {{procedural: 1.0}}, found {raw!r}")
    for name, weight in raw.items():
        if why := teacher.refusal(str(name)):
            raise UserError(
                f"{where}: expected a teacher whose output may train another model, found {name}: {why}"
            )
        if name not in teacher.BACKENDS:
            raise UserError(f"{where}: expected one of {', '.join(teacher.BACKENDS)}; found {name!r}")
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not (number and 0 <= weight < math.inf):
            raise UserError(f"{where}.{name}: expected a weight of 0 or more, found {weight!r}")
    if not any(raw.values()):
        raise UserError(f"{where}: expected a weight above 0, found none")
    return {name: float(weight) for name, weight in raw.items()}


def check_backends(
    people: IdentitiesParams, sounds: SpeechParams, teachers: TeacherParams, file: str
) -> None:
    """Raise UserError when a backend needs what those before it do not give."""
    makers = {
        "attributes": f"identities.backend {people.backend}",
        "phonemes": f"speech.backend {sounds.backend}",
    }
    users: list[tuple[str, str, Any, frozenset[str]]] = [
        ("speech.backend", sounds.backend, sounds.source, people.source.provides)
    ]
    given = people.source.provides | sounds.source.provides
    users += [("teacher.backends", name, source, given) for name, source in teachers.sources.items()]
    for key, name, source, gives in users:
        for lacking in missing_capabilities(source.needs, gives):
            maker = makers.get(lacking, "what comes before it")
            raise UserError(
                f"{file}: {key}: expected a backend that does without {lacking} ({maker} gives none), found {name}"
            )
