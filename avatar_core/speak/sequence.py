"""A speaking avatar as a sequence of .ply files, one a frame, for splat viewers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from avatar_core.clock import pad_to_frames
from avatar_core.generator.sampler import generate
from avatar_core.io.atomic import atomic_directory, check_replaceable
from avatar_core.particles.canonical import Canonical, write_ply
from avatar_core.particles.layout import ParticleLayout
from avatar_core.speak.articulation import ARTICULATION, articulate
from avatar_core.speak.render import CHUNK, moving_frames
from avatar_core.speak.sound import check_sound
from avatar_core.speak.student import Student

SEQUENCE_FILES = r"frame_\d{6}\.ply"


def check_sequence_folder(folder: str | os.PathLike) -> None:
    """Raises UserError unless `write_sequence` may write `folder`: absent, empty, or a sequence of ours."""
    check_replaceable(folder, SEQUENCE_FILES, "a sequence made by `avatar export`")


def write_sequence(folder: str | os.PathLike, frames: Iterator[Canonical]) -> int:
    """Write the folder whole, in place of an earlier sequence: `frame_000000.ply`, ...; returns how many frames.

    Raises UserError when `folder` holds anything but a sequence.
    """
    check_sequence_folder(folder)
    count = 0
    with atomic_directory(folder) as new:
        for count, frame in enumerate(frames, 1):
            write_ply(new / f"frame_{count - 1:06d}.ply", frame)
    return count


def posed_canonicals(
    student: Student,
    canonical: Canonical,
    layout: ParticleLayout,
    audio: np.ndarray,
    seed: int,
    articulation: float = ARTICULATION,
) -> Iterator[Canonical]:
    """The avatar in every frame of its speech, as canonical avatars of their own (for export)."""
    check_sound(audio)
    x = generate(student.generator, pad_to_frames(audio), seed, student.sample)
    x = articulate(x, student.codec, articulation)
    frames = moving_frames(canonical, layout, "auto", x.device)
    with torch.no_grad():
        for start in range(0, len(x), CHUNK):
            deformation = student.codec.decode(x[start : start + CHUNK], float(canonical.stature))
            splats = frames.compose(deformation).to("cpu")
            colors = splats.colors.expand_as(splats.means).numpy()
            for means, quats, color in zip(splats.means.numpy(), splats.quats.numpy(), colors, strict=True):
                yield replace(canonical, means=means, quats=quats, colors=color)
