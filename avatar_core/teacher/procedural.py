"""Teacher backend `procedural`: a performance played by a rendered person, as video, mask and (apart) truth.

Legend: T frames, H height, W width, Q truth vertices.
Source: AudioAvatar section "Video Diffusion Distillation" (hybrid data synthesis); the role of OmniAvatar and the
other audio-driven video models is taken here by graphics, so that the default needs no downloaded weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from avatar_core.config import ranged
from avatar_core.teacher import ClipRequest, ClipTruth, TeacherClip

if TYPE_CHECKING:
    from avatar_core.procedural.people import Person
    from avatar_core.procedural.people.secondary import Late
    from avatar_core.procedural.performance import Performance

TRUTH_STEP_M = (
    2e-5  # truth is stored on this grid: far below what a camera of these sizes resolves, and it compresses
)

FILMING = 0xF1  # the stream of random numbers that camera, room and film are drawn from


@dataclass(frozen=True)
class ProceduralTeacher:
    """Graphics. supersample: samples a pixel along each axis; secondary: hair, cloth, cheeks, chest and lips move as no rig does;
    cameras: each clip's own; rooms: behind the person; grain: of a camera."""

    provides: ClassVar[frozenset[str]] = frozenset({"camera", "truth"})
    needs: ClassVar[frozenset[str]] = frozenset({"attributes", "phonemes"})
    supersample: int = ranged(2, 1, 4)
    secondary: bool = True
    cameras: bool = True
    rooms: bool = True
    grain: bool = True

    def make(self, request: ClipRequest) -> TeacherClip:
        """Act the sentence and render it. Raises UserError for audible speech without phoneme times."""
        from avatar_core.procedural.people import framing_camera, neutral_face, relaxed_pose, sample_shot
        from avatar_core.procedural.people.rooms import sample_grain, sample_room, with_grain

        performance = self._perform(request)
        person = _person(request.identity, request.person_seed, json.dumps(request.attributes))
        # a sentence seen close and at a distance is filmed twice
        rng = np.random.default_rng([request.seed, FILMING, *request.framing.encode()])
        shot = sample_shot(rng) if self.cameras else None
        camera = framing_camera(person.vertices(None, relaxed_pose()), request.framing, request.size, shot)
        neutral, vertex_ids = neutral_face(), truth_vertex_ids()
        frames, positions, alphas = [], [], []
        room = sample_room(rng, request.size) if self.rooms else None
        lates = _late_frames(person, performance) if self.secondary else [None] * request.num_frames
        for t, late in enumerate(lates):
            face = np.maximum(neutral, performance.face_weights[t])
            pose = (face, performance.rotvecs[t], performance.translation[t])
            rgb, alpha = person.render(
                *pose, camera, supersample=self.supersample, background=room, late=late
            )
            frames.append(rgb)
            alphas.append(alpha)
            positions.append(person.vertices(*pose, late)[vertex_ids])
        truth = (np.round(np.stack(positions) / TRUTH_STEP_M) * TRUTH_STEP_M).astype(np.float32)
        film = np.stack(frames)
        if self.grain:
            film = with_grain(film, sample_grain(rng), rng)
        return TeacherClip(film, None, ClipTruth(vertex_ids, truth, camera, np.stack(alphas)))

    def _perform(self, request: ClipRequest) -> Performance:
        from avatar_core.procedural.performance import perform, sample_style

        return perform(request.speech, request.num_frames, request.seed, sample_style(request.person_seed))


@dataclass(frozen=True)
class KeyedTeacher(ProceduralTeacher):
    """The same people played by another performer: mouths by key poses, hands that wander, nods by phrases."""

    def _perform(self, request: ClipRequest) -> Performance:
        from avatar_core.procedural.performance import perform_keyed, sample_style

        return perform_keyed(
            request.speech, request.num_frames, request.seed, sample_style(request.person_seed)
        )


def _late_frames(person: Person, acted: Performance) -> list[Late]:
    ends = np.array([c.end_s for c in acted.closures])
    return person.late_frames(acted.rotvecs, acted.translation, acted.breath, ends, acted.stick)


@lru_cache(maxsize=1)  # a worker's clips of one person come one after the other
def _person(name: str, seed: int, attributes: str) -> Person:
    from avatar_core.procedural.people import Identity, Person

    return Person.build(Identity(name, seed, json.loads(attributes)))


@lru_cache(maxsize=1)
def truth_vertex_ids() -> np.ndarray:
    """The vertices (Q,) int32, base.obj numbering, whose true positions are kept: all facial landmarks (lips, lids) and
    every fifth of the body."""
    from avatar_core.procedural.people.anny_export import BODY_VERTICES
    from avatar_core.template.landmarks import FACE_LANDMARKS

    landmarks = [index for group in FACE_LANDMARKS.values() for index in group]
    return np.union1d(np.asarray(landmarks), np.arange(0, BODY_VERTICES, 5)).astype(np.int32)
