"""A portrait and a voice in, a talking video out: personalise once, generate motion for the whole sound, render in chunks.

Only the motion latents (a few hundred bytes a frame) grow with the length of the sound: particles, pictures and the encoder's
queue are held for `CHUNK` frames at a time. No skeleton and no pose parameters: sound -> latents -> deformation -> splats.

S samples at 16 kHz, T frames at 25 fps, N particles, H x W pixels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatar_core.clock import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, pad_to_frames
from avatar_core.errors import UserError
from avatar_core.generator.sampler import generate
from avatar_core.geometry.camera import Camera
from avatar_core.io.video import VideoWriter
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.deformation import compose, make_rig
from avatar_core.render import rasterize
from avatar_core.speak.student import Student

CHUNK = 16
ProgressFn = Callable[[str, int, int], None]  # (what, done, total)


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


def render_motion(
    student: Student, canonical: Canonical, layout: Any, x: torch.Tensor, camera: Camera, chunk: int = CHUNK
) -> Iterator[np.ndarray]:
    """Latents x (T, D) -> uint8 frames, yielded as (<=chunk, H, W, 3): decode, compose and rasterize a chunk at a time."""
    rig = make_rig(canonical, layout)
    viewmats = torch.from_numpy(np.asarray(camera.viewmat, np.float32))[None]
    Ks = torch.from_numpy(np.asarray(camera.K, np.float32))[None]
    background = torch.from_numpy(canonical.background.image(camera.width, camera.height))
    eps2d = canonical.eps2d(np.asarray(camera.viewmat), np.asarray(camera.K))
    with torch.no_grad():
        for start in range(0, len(x), chunk):
            deformation = student.codec.decode(x[start : start + chunk], float(canonical.stature))
            means, quats, log_scales, logit_opacities, colors = compose(canonical, layout, deformation, rig)
            count = len(means)
            images, _ = rasterize(
                means,
                quats,
                log_scales.exp(),
                logit_opacities.sigmoid(),
                colors,
                viewmats.expand(count, 4, 4),
                Ks.expand(count, 3, 3),
                camera.width,
                camera.height,
                eps2d=eps2d,
                background=background,
            )
            yield (images.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def speak(
    canonical: Canonical,
    layout: Any,
    camera: Camera,
    student: Student,
    audio: np.ndarray,
    out: str | os.PathLike,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    crf: int = 16,
    progress: ProgressFn | None = None,
) -> SpeakReport:
    """Drive an avatar with sound (S,) at 16 kHz and write the mp4. The file appears only when it is complete.

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

    def sampling(fraction: float, _: str) -> None:
        if progress:
            progress("motion", round(fraction * 100), 100)

    x = generate(student.generator, audio, seed, config, sampling)
    generated = time.monotonic()
    with VideoWriter(out, camera.width, camera.height, audio=audio, crf=crf, preset="fast") as writer:
        for images in render_motion(student, canonical, layout, x, camera):
            writer.write(images)
            if progress:
                progress("video", writer.frames, frames)
    return SpeakReport(frames, generated - start, time.monotonic() - generated)


def check_sound(audio: np.ndarray) -> None:
    """Raises UserError unless audio is (S,), finite and at least one frame (0.04 s) long."""
    audio = np.asarray(audio)
    if audio.ndim != 1 or len(audio) < SAMPLES_PER_FRAME:
        raise UserError(f"audio: expected at least 0.04 s of mono sound, found shape {audio.shape}")
    if not np.isfinite(audio).all():
        raise UserError("audio: expected finite samples, found NaN or infinity")


def output_camera(camera: Camera, longest: int) -> Camera:
    """The portrait's camera, scaled so that its longest side is `longest` px, both sides even (H.264's colour grid)."""
    scale = longest / max(camera.width, camera.height)
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (camera.width, camera.height))
    K = np.array(camera.K, np.float32)
    K[0] *= width / camera.width
    K[1] *= height / camera.height
    return replace(camera, K=K, width=width, height=height)


def check_out(path: str | os.PathLike, suffix: str) -> Path:
    """An output path with the expected ending whose folder can be made. Raises UserError."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise UserError(f"{path}: expected a name ending in {suffix}, found {path.suffix or 'no ending'}")
    if path.is_dir():
        raise UserError(f"{path}: expected a file name, found a folder")
    return path


def seconds(audio: np.ndarray) -> float:
    """Length of sound at 16 kHz."""
    return len(audio) / SAMPLE_RATE


def posed_canonicals(
    student: Student, canonical: Canonical, layout: Any, audio: np.ndarray, seed: int
) -> Iterator[Canonical]:
    """The avatar in every frame of its speech, as canonical avatars of their own (for export)."""
    check_sound(audio)
    rig = make_rig(canonical, layout)
    x = generate(student.generator, pad_to_frames(audio), seed, student.sample)
    with torch.no_grad():
        for start in range(0, len(x), CHUNK):
            deformation = student.codec.decode(x[start : start + CHUNK], float(canonical.stature))
            means, quats, *rest = (v.numpy() for v in compose(canonical, layout, deformation, rig))
            count = len(means)
            # what the deformation leaves alone has no time axis
            rest = [np.broadcast_to(v, (count, *v.shape)) if len(v) == len(canonical) else v for v in rest]
            for t in range(count):
                log_scales, logit_opacities, colors = (v[t] for v in rest)
                yield replace(
                    canonical,
                    means=means[t],
                    quats=quats[t],
                    log_scales=log_scales,
                    logit_opacities=logit_opacities,
                    colors=colors,
                )


def render_still(canonical: Canonical, camera: Camera) -> np.ndarray:
    """The avatar at rest, (H, W, 3) float in [0, 1]."""
    names = ("means", "quats", "log_scales", "logit_opacities", "colors")
    means, quats, log_scales, logit_opacities, colors = (
        torch.from_numpy(np.asarray(getattr(canonical, name), np.float32)) for name in names
    )
    with torch.no_grad():
        image, _ = rasterize(
            means,
            quats,
            log_scales.exp(),
            logit_opacities.sigmoid(),
            colors,
            torch.from_numpy(np.asarray(camera.viewmat, np.float32)),
            torch.from_numpy(np.asarray(camera.K, np.float32)),
            camera.width,
            camera.height,
            eps2d=canonical.eps2d(np.asarray(camera.viewmat), np.asarray(camera.K)),
            background=torch.from_numpy(canonical.background.image(camera.width, camera.height)),
        )
    return image.clamp(0, 1).numpy()
