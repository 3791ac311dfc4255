"""Stage 8, distill: end-to-end fine-tuning through decoder and renderer, with the score teacher's gradients.

L_simple + VSD + trajectory alignment + L1 + ARAP. Writes `student.safetensors`, all that `avatar speak` needs besides a
portrait. The sheet shows what fine-tuning did: teacher, before, after.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from avatar_core.distill.train import DistillClip, View, train_student
from avatar_core.embed.batches import LatentClip
from avatar_core.embed.codec import MotionCodec
from avatar_core.fit.pictures import outside
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import generate
from avatar_core.geometry.camera import Camera
from avatar_core.io.images import contact_sheet
from avatar_core.io.rows import Rows
from avatar_core.io.store import Store, write_arrays
from avatar_core.particles.canonical import Canonical, load_canonical
from avatar_core.particles.deformation import Deformation, LocalFrames
from avatar_core.particles.framing import VISIBLE
from avatar_core.particles.layout import ParticleLayout, make_layout
from avatar_core.perception.crop import read_window, whole_window
from avatar_core.perception.tracks import TrackBinding, bind_tracks
from avatar_core.speak.render import render_motion
from avatar_core.speak.student import Student, save_student
from avatar_core.training.loop import history_rows, mean_losses
from stages.artifacts import Artifacts, Row
from stages.common import Stage, run_stage


@dataclass(frozen=True)
class ClipJob:
    """A clip to be seen: as the score teacher sees it, at `scored_size` px, or, where it does not, whole at `whole_size` px."""

    stage: Stage
    row: Row
    scratch: Path
    whole_size: int
    scored_size: int


class People(Mapping[str, Canonical]):
    """The canonical avatars of the clips' people, each read when it is asked for."""

    def __init__(self, data: Artifacts, rows: Sequence[Row]) -> None:
        self.files = {row["identity"]: data.canonical_file(row) for row in rows}

    def __getitem__(self, name: str) -> Canonical:
        return load_canonical(self.files[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def main(stage: Stage) -> None:
    """Fine-tune the generator and the decoder on rendered clips."""
    params = stage.params.distill
    data, layout = Artifacts.of(stage), make_layout(stage.params.particles)
    codec = MotionCodec.from_tensors(*data.checkpoint("embed", "codec"))
    generator = Generator.from_tensors(*data.checkpoint("generator", "generator"))
    score = stage.params.score.teacher.load(*data.checkpoint("score", "score"))
    rows = data.fitted_clips("train")
    scratch = stage.scratch(stage.data / "generator", stage.data / "score")
    stage.map(_see, [ClipJob(stage, row, scratch, params.size, score.size) for row in rows])
    canonicals, clips = People(data, rows), [_clip(stage, row, scratch) for row in rows]
    config = replace(params, seed=stage.entropy("train") % 2**31)
    compute = stage.compute
    before = (copy.deepcopy(generator).to(compute.device), copy.deepcopy(codec).to(compute.device))
    out = stage.fresh(stage.out)
    generator, codec, history = stage.train(
        params.steps,
        train_student,
        clips,
        canonicals,
        layout,
        generator,
        codec,
        score,
        config,
        audio=stage.params.audio.features,
        checkpoint_dir=scratch,
    )
    student = Student(generator, codec, stage.params.avatar, stage.params.perception, stage.params.sample)
    save_student(out / "student.safetensors", student, config.seed)
    stage.write_csv("loss", history_rows(history))
    tenth = max(1, len(history) // 10)
    last = {f"{n}_last_tenth": v for n, v in mean_losses(history[-tenth:]).items()}
    stage.write_metrics(
        {f"{n}_first_tenth": v for n, v in mean_losses(history[:tenth]).items()}
        | last
        | {"clips": len(clips)},
        headline=tuple(last),
    )
    _show(stage, rows, canonicals, layout, before, student)


def _see(job: ClipJob) -> None:
    """What the teacher shows of a clip, into the scratch folder: the fields of a `View`, and those of its tracks."""
    path, row, data = job.scratch / f"{job.row['id']}.zarr", job.row, Artifacts.of(job.stage)
    if path.is_dir():
        return
    canonical, layout = load_canonical(data.canonical_file(row)), make_layout(job.stage.params.particles)
    frames, masks = data.frames(row), data.masks(row)
    camera = Camera(*data.camera(row), frames.shape[2], frames.shape[1])
    scored = _scored(job.stage, row)
    window = read_window(data.score_windows(), row["id"]) if scored else whole_window(frames.shape[:3])
    size = job.scored_size if scored else job.whole_size
    sound = torch.from_numpy(data.audio(row["id"]))
    tracks = window.points(data.tracks(row), size)
    splats = LocalFrames(canonical, layout).compose(Deformation.of(data.trajectory(row)))
    pixels, depth = camera.project(splats.means[:, : canonical.n_base].numpy())
    small = window.cut(frames, size)
    bound = bind_tracks(tracks, window.points(pixels, size), depth, radius=3.0 * max(size / window.side, 0.5))
    write_arrays(
        path,
        {
            "viewmat": camera.viewmat,
            "Ks": window.intrinsics(camera.K, size),
            "frames": small,
            "log_mel": job.stage.params.score.teacher.hear(sound).numpy(),
            "background": _backdrop(small, window.cut(outside(masks).astype(np.uint8) * 255, size) > 247),
            "particles": np.asarray(bound.particles),
            "targets": np.asarray(bound.targets),
        },
    )


def _clip(stage: Stage, row: Row, scratch: Path) -> DistillClip:
    store = Store(scratch / f"{row['id']}.zarr")
    frames, Ks, background, particles, targets, log_mel = (
        Rows(store, name) for name in ("frames", "Ks", "background", "particles", "targets", "log_mel")
    )
    return DistillClip(
        LatentClip(**Artifacts.of(stage).latents(row["id"]), visible=VISIBLE[row["framing"]]),
        row["identity"],
        View(
            store.read("viewmat"),
            Ks,
            frames,
            background,
            TrackBinding(particles[:], cast(np.ndarray, targets)),
            _scored(stage, row),
        ),
        log_mel,
    )


def _scored(stage: Stage, row: Row) -> bool:
    return row["framing"] == "face" or not stage.params.score.teacher.mouth


def _backdrop(frames: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(H,W,3) in [0,1]: the mean over time of what no person covers; where one always does, the nearest such colour."""
    weight = outside.sum(0)[..., None]
    mean = (frames * outside[..., None]).sum(0) / np.maximum(weight, 1) / 255
    overall = (mean * (weight > 0)).sum((0, 1)) / max(1, int((weight > 0).sum()))
    return np.where(weight > 0, mean, overall).astype(np.float32)


def _show(
    stage: Stage,
    rows: Sequence[Row],
    canonicals: Mapping[str, Canonical],
    layout: ParticleLayout,
    before: tuple[Generator, MotionCodec],
    after: Student,
) -> None:
    """The same sound and seed, driven before and after fine-tuning, under the teacher's frames."""
    data, images, captions = Artifacts.of(stage), [], []
    faces = [r for r in rows if r["framing"] == "face"][:2]
    for row in faces + [r for r in rows if r["framing"] == "waist_up"][:1]:
        frames, audio = data.frames(row), data.audio(row["id"])
        shown = np.linspace(0, len(frames) - 1, 6).round().astype(int)
        camera = Camera(*data.camera(row), frames.shape[2], frames.shape[1])
        images += list(frames[shown])
        captions += [f"teacher {row['id'][-14:]}"] * len(shown)
        for name, student in (
            ("before", replace(after, generator=before[0], codec=before[1])),
            ("after", after),
        ):
            x = generate(student.generator, audio, stage.seed, student.sample)[shown]
            canonical = canonicals[row["identity"]]
            images += list(np.concatenate(list(render_motion(student, canonical, layout, x, camera, "full"))))
            captions += [name] * len(shown)
    contact_sheet(stage.reports / "contact_sheet.png", images, captions, columns=6, cell=192, title="distill")


if __name__ == "__main__":
    run_stage("distill", main)
