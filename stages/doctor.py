"""What a profile needs on this machine: every component, ready or not, under which licence, and the next step.

`python -m stages doctor` (also `avatar doctor`) reads parameters, names, sizes and headers of files, single files whole, and loads
no model but references of metrics;
`python -m stages models` lists the published models that backends know, and reads their files whole on demand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatar_core.audio.pretrained import Hubert, Wav2Vec2, Whisper
from avatar_core.backends import backend_class
from avatar_core.device import resolve
from avatar_core.errors import UserError
from avatar_core.identities.diffusion import PRESETS as PORTRAIT_MODELS
from avatar_core.models.card import Card, Published, failures, need_memory
from avatar_core.models.files import (
    COMMIT,
    HUB_ID,
    cached_snapshots,
    check_safetensors,
    folder_digest,
    model_files,
    verify_file,
    verify_folder,
    verify_snapshot,
)
from avatar_core.perception.cotracker import CoTracker
from avatar_core.perception.onnx_matte import OnnxMasks
from avatar_core.perception.wholebody import WholebodyKeypoints
from avatar_core.score.ltx2 import LTX2Score
from avatar_core.score.wan_s2v import WanS2VScore
from avatar_core.speech.coqui import LICENCES as VOICE_MODELS
from avatar_core.teacher.echomimic import EchoMimicV2
from avatar_core.teacher.ltx2 import LTX2Teacher
from avatar_core.teacher.omniavatar import OmniAvatar
from avatar_core.teacher.wan_s2v import WanSpeechToVideo
from avatar_core.teacher.wan_s2v_diffsynth import WanByDiffSynth
from stages.params import Params
from stages.sections import BASELINES

MACHINE = Card("this machine", "", "yes")
OURS = Card("ships with the project", "Apache-2.0", "yes")
YOURS = Card("your files", "as you have it", "unknown", "whoever is seen or heard must have agreed")
REFERENCE = Card(
    "a reference you brought", "see its source", "unknown", url="docs/full.md, Published metrics"
)
TRAINING = {"yes": "allowed", "no": "NOT allowed", "conditions": "under conditions", "unknown": "not known"}


@dataclass(frozen=True)
class Component:
    """One part of a run. lacking: a line each, what is missing and the next step; empty when it is ready."""

    role: str
    name: str
    card: Card
    lacking: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        return not self.lacking


def components(params: Params, file: str = "params.yaml") -> Iterator[Component]:
    """Everything that the pipeline runs with these parameters needs, in the order of the stages."""
    run = params.run
    lacking = failures(lambda: resolve(run.device, run.precision, where="run.device", renders=True))
    yield Component("run.device", run.device, MACHINE, tuple(lacking))
    chosen: list[tuple[str, str, Any]] = [
        ("identities", params.identities.backend, params.identities.source),
        ("speech", params.speech.backend, params.speech.source),
        *(("teacher", name, source) for name, source in params.teacher.sources.items()),
    ]
    perception, audio = params.perception, params.audio
    chosen += [
        (f"perception.{role}", getattr(perception, role), backend)
        for role, backend in perception.chosen.items()
    ]
    chosen += [
        ("audio", audio.backend, audio.features),
        ("score", params.score.backend, params.score.teacher),
    ]
    for role, name, backend in chosen:
        yield _component(role, name, backend, params, bool(lacking))
    for name, metric in params.evaluate.chosen.items():
        reference = metric.backend == "reference"
        card = REFERENCE if reference else OURS
        yield Component("evaluate", f"{name} ({metric.backend})", card, tuple(failures(metric.check)))
    for name, baseline in params.evaluate.compared.items():
        how = () if baseline.chosen else (f"the row says `not run`; {baseline.how()}",)
        found = _component("evaluate", f"{name} (baseline)", baseline, params, bool(lacking))
        yield dataclasses.replace(found, lacking=how or found.lacking)


def _component(role: str, name: str, backend: Any, params: Params, no_device: bool) -> Component:
    if isinstance(backend, Published):
        lacking = backend.lacking() or failures(lambda: _check_files(backend))
        if not no_device:
            compute = resolve(params.run.device, params.run.precision, where="run.device")
            lacking += failures(lambda: need_memory(f"{role}.{name}", backend.card.gpu_gb, compute))
        return Component(role, name, backend.card, tuple(lacking))
    path = getattr(backend, "path", None)
    if path is None:
        return Component(role, name, OURS)
    lacking = (
        () if Path(path).is_dir() else (f"{role}.{name}.path: expected a folder, found no {path}; make it",)
    )
    return Component(role, name, YOURS, lacking)


def _check_files(backend: Published) -> None:
    """Raises UserError for a single file with another hash than declared; folders are left to `avatar models verify`."""
    for file, sha256 in backend.folders().items():
        if file.is_file():
            verify_file(file, sha256)


def shown(component: Component) -> list[str]:
    """Lines for a terminal: state, role, name, whose it is; below, what is missing."""
    card = component.card
    about = (
        card.id
        if card in (MACHINE, OURS, YOURS)
        else f"{card.id}, {card.licence}, training {TRAINING[card.training]}"
    )
    about += f", {card.gpu_gb:g} GB" if card.gpu_gb else ""
    state = "ready" if component.ready else "MISSING"
    lines = [f"{state:8} {component.role:22} {component.name}: {about}"]
    if card.note and card is not YOURS:
        lines.append(f"{'':31} note: {card.note}")
    lines += [f"{'':31} {line}" for line in component.lacking]
    if component.lacking and card.url:
        lines.append(f"{'':31} from {card.url}")
    return lines


def known_models() -> dict[str, Card]:
    """backend and preset -> card of every published model that a backend has by name."""
    cards = {f"identities.diffusers {name}": preset.card for name, preset in PORTRAIT_MODELS.items()}
    cards |= {f"speech.coqui {name}": card for name, card in VOICE_MODELS.items()}
    for features in (Wav2Vec2, Hubert, Whisper):
        cards |= {f"{features.where} {card.id}": card for card in features.cards}
    for backend in (
        OmniAvatar,
        EchoMimicV2,
        WanSpeechToVideo,
        WanByDiffSynth,
        LTX2Teacher,
        LTX2Score,
        WanS2VScore,
        WholebodyKeypoints,
        OnnxMasks,
        CoTracker,
    ):
        cards[backend.where] = backend().card
    baselines = [backend_class(BASELINES, name, "", "")() for name in BASELINES]
    return cards | {one.where: one.card for one in baselines if one.card.id not in _ids(cards)}


def _ids(cards: Mapping[str, Card]) -> set[str]:
    return {card.id for card in cards.values()}


def listed() -> list[str]:
    """Lines: every model that backends know by name, its licence, and which revisions the Hugging Face cache holds, or where else
    it comes from."""
    lines = []
    for name, card in known_models().items():
        memory = f"{card.gpu_gb:g} GB" if card.gpu_gb else "memory not stated"
        there = f"from {card.url}"
        if HUB_ID.fullmatch(card.id):
            there = ", ".join(revision[:12] for revision in cached_snapshots(card.id)) or "not downloaded"
        revision = card.revision[:12] if COMMIT.fullmatch(card.revision) else card.revision
        pinned = f"at {revision}" if revision else "its revision is yours to pin"
        lines.append(
            f"{name}: {card.id}, {pinned}; {card.licence}, training {TRAINING[card.training]}; {memory}; {there}"
        )
        if card.note:
            lines.append(f"    note: {card.note}")
    return lines


def verified_folder(folder: Path) -> str:
    """The digest of a local model, after a look at all its weights. Raises UserError naming a damaged file."""
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder with a model, found none")
    if not (files := model_files(folder)):
        raise UserError(f"{folder}: expected a folder with a model, found an empty one")
    for path in files:
        if path.suffix == ".safetensors":
            check_safetensors(path)
    return folder_digest(folder)


def verified(params: Params) -> list[str]:
    """Read every file of the published models in use; a line each. Raises UserError for the first that is not what it should be."""
    lines = []
    sources = [
        params.identities.source,
        params.speech.source,
        *params.teacher.sources.values(),
        *params.perception.chosen.values(),
        params.audio.features,
        params.score.teacher,
        *(one for one in params.evaluate.compared.values() if one.chosen and not one.path),
    ]
    for source in (s for s in sources if isinstance(s, Published)):
        for line in source.lacking():
            raise UserError(line)
        for folder, sha256 in source.folders().items():
            if folder.is_file():
                verify_file(folder, sha256)
            elif sha256:
                verify_folder(folder, sha256)
            else:
                verify_snapshot(folder)
            lines.append(f"{source.card.id}: {folder} is whole")
    return lines
