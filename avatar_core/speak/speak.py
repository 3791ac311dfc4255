"""A portrait and a voice in, a talking video out: personalise once, generate motion for the whole sound, render in chunks.

Only the motion latents (a few hundred bytes a frame) grow with the length of the sound: particles, pictures and the encoder's
queue are held for `render.CHUNK` frames at a time. No skeleton and no pose parameters: sound -> latents -> deformation -> splats.

S samples at 16 kHz.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

import numpy as np

from avatar_core.clock import FPS, SAMPLES_PER_FRAME, pad_to_frames
from avatar_core.errors import UserError
from avatar_core.generator.sampler import generate
from avatar_core.geometry.camera import Camera
from avatar_core.io.audio import Soundtrack
from avatar_core.io.video import VideoWriter
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.layout import ParticleLayout
from avatar_core.progress import Progress, silent
from avatar_core.speak.articulation import ARTICULATION, articulate
from avatar_core.speak.behind import KEEP, Behind
from avatar_core.speak.render import Gestures, render_motion
from avatar_core.speak.sound import check_sound
from avatar_core.speak.student import Student


@dataclass(frozen=True)
class SpeakReport:
    """What it took, in seconds. `real_time_factor`: seconds of work (personalisation apart) for a second of video."""

    frames: int
    generate_s: float
    render_s: float

    @property
    def video_s(self) -> float:
        return self.frames / FPS

    @property
    def real_time_factor(self) -> float:
        return (self.generate_s + self.render_s) / max(self.video_s, 1e-9)


def speak(
    canonical: Canonical,
    layout: ParticleLayout,
    camera: Camera,
    student: Student,
    audio: np.ndarray,
    out: str | os.PathLike,
    *,
    gestures: Gestures = "auto",
    track: Soundtrack | None = None,
    behind: Behind = KEEP,
    articulation: float = ARTICULATION,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    crf: int = 16,
    progress: Progress = silent,
) -> SpeakReport:
    """Drive an avatar with sound (S,) at 16 kHz and write the video. The file appears only when it is complete.

    track: the same sound as it came, for the video to carry; without it, `audio`. behind: what stands behind; transparent videos
    are .webm or .mov. articulation: how far the mouth opens, 1 as the student learnt it.

    Raises UserError: latents of another avatar layout, a video that cannot be written.
    """
    check_sound(audio)
    if student.codec.n_particles != int(canonical.n_base):
        raise UserError(
            f"avatar: expected {student.codec.n_particles} particles as the student was trained on, "
            f"found {int(canonical.n_base)}"
        )
    audio = pad_to_frames(np.asarray(audio, np.float32))
    frames = len(audio) // SAMPLES_PER_FRAME
    config = student.sample
    config = replace(config, steps=steps if steps is not None else config.steps)
    config = replace(config, guidance=guidance if guidance is not None else config.guidance)
    start = time.monotonic()

    def sampling(done: int, total: int, _: str) -> None:
        progress(round(100 * done / total), 100, "motion")

    x = articulate(generate(student.generator, audio, seed, config, sampling), student.codec, articulation)
    generated = time.monotonic()
    heard = audio if track is None else replace(track, seconds=frames / FPS)
    clear = behind.transparent
    person = behind.before(canonical)
    with VideoWriter(
        out, camera.width, camera.height, audio=heard, crf=crf, preset="fast", transparent=clear
    ) as writer:
        for images in render_motion(student, person, layout, x, camera, gestures, transparent=clear):
            writer.write(images)
            progress(writer.frames, frames, "video")
    return SpeakReport(frames, generated - start, time.monotonic() - generated)
