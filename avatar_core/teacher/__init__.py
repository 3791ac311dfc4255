"""Teachers: who makes the talking videos that are learnt from. A backend is one file here and one line below.

Legend: T frames at 25 fps, H height, W width, Q truth vertices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from avatar_core.backends import backend_class

if TYPE_CHECKING:
    from avatar_core.device import Compute
    from avatar_core.geometry.camera import Camera
    from avatar_core.models.card import Card
    from avatar_core.speech.types import Speech

BACKENDS = {
    "procedural": "avatar_core.teacher.procedural:ProceduralTeacher",
    "keyed": "avatar_core.teacher.procedural:KeyedTeacher",
    "folder": "avatar_core.teacher.folder:FolderTeacher",
    "omniavatar": "avatar_core.teacher.omniavatar:OmniAvatar",
    "echomimic_v2": "avatar_core.teacher.echomimic:EchoMimicV2",
    "wan_s2v": "avatar_core.teacher.wan_s2v:WanSpeechToVideo",
    "wan_s2v_diffsynth": "avatar_core.teacher.wan_s2v_diffsynth:WanByDiffSynth",
    "ltx2": "avatar_core.teacher.ltx2:LTX2Teacher",
    "command": "avatar_core.teacher.command:CommandTeacher",
}
# models whose licence forbids to train others on what they make, by a part of their names -> the clause
REFUSED = {
    "hunyuan": "the Tencent Hunyuan community licence, clause 5(b), forbids to use the works or any output of them to improve any "
    "other AI model; it may serve as a baseline in evaluation alone",
}
MAX_FRAMES = 1500  # a clip's frames are held in memory at once


@dataclass(frozen=True)
class ClipRequest:
    """One clip to make: `identity` (portrait file; sampled attributes, empty for photos) says `speech`.

    size: side of the square frame in px. seed: of the performance, the same for a sentence seen close and at a distance;
    person_seed: of the person's manner. driving: a video of the performance, for baselines that take the motion from one.
    """

    name: str
    identity: str
    person_seed: int
    attributes: dict[str, Any]
    portrait: Path
    speech: Speech
    framing: str
    size: int
    seed: int
    driving: Path | None = None

    @property
    def num_frames(self) -> int:
        return self.speech.num_frames


@dataclass(frozen=True)
class ClipTruth:
    """What only evaluation may see: vertex_ids (Q,) int32 in base.obj numbering, the same in all clips of a run; positions
    (T,Q,3) float32 metres, world; the true camera; alpha (T,H,W) uint8, how much of each pixel the person covers, or None."""

    vertex_ids: np.ndarray
    positions: np.ndarray
    camera: Camera
    alpha: np.ndarray | None = None


@dataclass(frozen=True)
class TeacherClip:
    """frames (T,H,W,3) uint8 RGB, even sides; foreground masks (T,H,W) uint8 0..255 or None; truth or None."""

    frames: np.ndarray
    masks: np.ndarray | None = None
    truth: ClipTruth | None = None


def conventional_camera(backend: str) -> bool:
    """Whether the teacher of that name films about as convention has it (`CAPABILITIES["camera"]`)."""
    return "camera" in backend_class(BACKENDS, backend, "catalogue", "backend").provides


class TeacherBackend(Protocol):
    """Makes clips. `needs` of "attributes" and "phonemes" what `make` reads; `provides` of "masks" and "truth" what it returns,
    and "camera". Clips without "camera" are taken to be filmed from where the person's portrait was taken."""

    @property
    def provides(self) -> frozenset[str]: ...
    @property
    def needs(self) -> frozenset[str]: ...

    def make(self, request: ClipRequest) -> TeacherClip:
        """`request.num_frames` frames, in step with the sound; the same for the same request."""
        ...


@runtime_checkable
class VideoModel(Protocol):
    """A teacher that runs a published model: it makes its clips one after the other, as files that `folder` then reads."""

    @property
    def provides(self) -> frozenset[str]: ...
    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def card(self) -> Card: ...

    def videos(
        self, requests: Sequence[ClipRequest], folder: Path, compute: Compute, advance: Callable[[], None]
    ) -> None:
        """Write `<folder>/<name>.mp4`, in step with the sound, for each request; `advance` is called after each. UserError before
        work for what is missing."""
        ...


def refusal(name: str) -> str:
    """Why a model of that name cannot be a teacher; empty where nothing is known against it."""
    plain = "".join(c for c in name.lower() if c.isalnum())
    return next((why for part, why in REFUSED.items() if part in plain), "")


def deal_teacher(weights: Mapping[str, float], seed: int) -> str:
    """One of the names, drawn with these weights; each seed draws for itself, so no clip's teacher depends on other clips."""
    names = sorted(name for name, weight in weights.items() if weight > 0)
    shares = np.cumsum([weights[name] for name in names])
    drawn = np.random.default_rng(seed).random() * shares[-1]
    return names[int(np.searchsorted(shares[:-1], drawn, side="right"))]
