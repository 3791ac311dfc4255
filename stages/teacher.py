"""Stage 3, teacher: talking videos of the planned clips, with foreground masks and point tracks.

Writes per shard `<clip>.mp4` (25 fps, H.264 + AAC), `aux.zarr` (masks/<clip>, tracks/<clip>) and `catalog.parquet`; apart from them
`data/truth/shard-<k>.zarr`, the true surface and mask where a clip comes with them, which only evaluation reads. How near the found
masks come to the true ones is a number of the report here and goes nowhere else.
Videos come from backends: `avatar_core.teacher`; several share the clips by weight.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from avatar_core.io.atomic import sha256_file
from avatar_core.io.catalog import write_catalog
from avatar_core.io.images import contact_sheet
from avatar_core.io.store import Store, write_arrays
from avatar_core.io.video import read_video, write_mp4
from avatar_core.perception.backends import PerceptionConfig, clip_masks
from avatar_core.teacher import MAX_FRAMES, ClipRequest, TeacherBackend, TeacherClip, VideoModel, deal_teacher
from avatar_core.teacher.folder import FolderTeacher
from stages.artifacts import Artifacts, PersonRecord, Row
from stages.common import Stage, run_stage
from stages.requests import clip_request


@dataclass(frozen=True)
class Job:
    """What one worker needs for one clip."""

    row: Row
    person: PersonRecord
    teacher: str
    source: TeacherBackend | VideoModel
    size: int
    crf: int
    perception: PerceptionConfig
    seed: int
    data: Artifacts
    scratch: Path


@dataclass(frozen=True)
class Made:
    """What is to be said of a clip that lies in the scratch folder: numbers for the catalogue, a picture, and how near its masks
    come to the true ones where those are known, for this stage's report alone."""

    qc: dict[str, float]
    picture: np.ndarray
    mask_iou: float | None


def main(stage: Stage) -> None:
    """Make the talking videos of one shard."""
    data = Artifacts.of(stage)
    people = {p.id: p for p in data.people()}
    rows = [row for row in data.planned_clips() if row["shard"] == stage.shard]
    scratch = stage.scratch(stage.data / "identities", stage.data / "speech")
    jobs = [_job(stage, row, people[row["identity"]], data, scratch) for row in rows]
    models = {name: s for name, s in stage.params.teacher.sources.items() if isinstance(s, VideoModel)}
    for name, model in models.items():
        jobs = _filmed(stage, name, model, jobs, scratch / "videos" / name)
    done = stage.map(_make, jobs)

    out, truth = stage.fresh(stage.out), {}
    arrays: dict[str, np.ndarray] = {}
    for row in rows:
        shutil.copyfile(scratch / f"{row['id']}.mp4", out / f"{row['id']}.mp4")
        store = Store(scratch / f"{row['id']}.zarr")
        arrays |= {f"{kind}/{row['id']}": store.read(kind) for kind in ("masks", "tracks")}
        if "positions" in store:
            truth[row["id"]] = store.read("positions")
            for name in ("viewmat", "K", *(("alpha",) if "alpha" in store else ())):
                truth[f"{name}/{row['id']}"] = store.read(name)
            truth.setdefault("vertex_ids", store.read("vertex_ids"))
            if not np.array_equal(truth["vertex_ids"], store.read("vertex_ids")):
                raise ValueError(f"{row['id']}: expected the truth of the same vertices as in other clips")
    write_arrays(out / "aux.zarr", arrays)
    # Evaluation needs to find an empty store, not none, when the videos come without truth.
    write_arrays(stage.data / "truth" / f"shard-{stage.shard}.zarr", truth)
    write_catalog(
        out / "catalog.parquet",
        [
            {
                **job.row,
                "backend": job.teacher,
                "sha256": sha256_file(out / f"{job.row['id']}.mp4"),
                "qc": made.qc,
                **(models[job.teacher].card.row if job.teacher in models else {}),
            }
            for job, made in zip(jobs, done, strict=True)
        ],
    )
    _report(stage, jobs, done)
    if len(stage.params.teacher.sources) > 1:
        stage.write_csv("teachers", _by_teacher(jobs, done, models))


def teacher_of(stage: Stage, row: Row) -> str:
    """The teacher that a planned clip is dealt."""
    return deal_teacher(stage.params.teacher.backends, stage.entropy("teacher", *_sentence(row)))


def _sentence(row: Row) -> tuple[str, str]:
    # Seen close and at a distance it is one performance, by one teacher. Recordings may lack a text.
    return row["identity"], row["text"] or row["sha256"]


def _job(stage: Stage, row: Row, person: PersonRecord, data: Artifacts, scratch: Path) -> Job:
    params, teacher = stage.params.teacher, teacher_of(stage, row)
    return Job(
        row=row,
        person=person,
        teacher=teacher,
        source=params.sources[teacher],
        size=params.full_body_size if row["framing"] == "full_body" else params.size,
        crf=params.crf,
        perception=stage.params.perception,
        seed=stage.entropy("performance", *_sentence(row)) % 2**31,
        data=data,
        scratch=scratch,
    )


def _filmed(stage: Stage, name: str, model: VideoModel, jobs: list[Job], folder: Path) -> list[Job]:
    """Let a published model make its clips, those left that a killed run has not made; its jobs then read them as files."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = [
        _request(job)
        for job in jobs
        if job.teacher == name and not (folder / f"{job.row['id']}.mp4").is_file()
    ]
    if todo:
        with stage.progress(len(todo), f"clip of {name}") as bar:
            model.videos(todo, folder, stage.compute, bar.advance)
    return [replace(job, source=FolderTeacher(str(folder))) if job.teacher == name else job for job in jobs]


def _make(job: Job) -> Made:
    """One clip into the scratch folder, unless a killed run left it there whole."""
    name = job.row["id"]
    video, store = job.scratch / f"{name}.mp4", job.scratch / f"{name}.zarr"
    if not (video.is_file() and store.is_dir()):
        audio = job.data.audio(name)
        clip = _clip(job, audio)
        masks = clip.masks
        if masks is None:
            masks = clip_masks(job.perception.mask_detector, clip.frames)
        arrays = {"masks": masks, "tracks": job.perception.point_tracker.track(clip.frames, masks)}
        if clip.truth is not None:
            arrays |= {"vertex_ids": clip.truth.vertex_ids, "positions": clip.truth.positions}
            arrays |= {"viewmat": clip.truth.camera.viewmat, "K": clip.truth.camera.K}
            if clip.truth.alpha is not None:
                arrays["alpha"] = clip.truth.alpha
        write_arrays(store, arrays)
        write_mp4(video, clip.frames, audio=audio, crf=job.crf)
    frames, found = read_video(video, MAX_FRAMES), Store(store)
    masks, tracks = found.read("masks"), found.read("tracks")
    alive = np.isfinite(tracks[..., 0])
    qc = {
        "foreground_share": float((masks > 127).mean()),
        "tracks_alive": float(alive.sum(1).mean()),
        "motion": float(np.abs(np.diff(frames.astype(np.float32), axis=0)).mean())
        if len(frames) > 1
        else 0.0,
    }
    picture = frames[int(len(frames) * 0.4)].copy()
    for x, y in tracks[int(len(frames) * 0.4)][alive[int(len(frames) * 0.4)]]:
        picture[min(int(y), len(picture) - 1), min(int(x), picture.shape[1] - 1)] = (255, 40, 40)
    return Made(qc, picture, mask_iou(masks, found.read("alpha")) if "alpha" in found else None)


def mask_iou(masks: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of the person in masks and true masks (T,H,W) uint8, all frames together; 1 for nobody in both."""
    ours, true = masks > 127, truth > 127
    union = int((ours | true).sum())
    return float((ours & true).sum()) / union if union else 1.0


def _clip(job: Job, audio: np.ndarray) -> TeacherClip:
    """The teacher's clip; ValueError when it is not what the backend declares: a programmer's error."""
    assert not isinstance(job.source, VideoModel)
    clip = job.source.make(_request(job, audio))
    given = {kind for kind in ("masks", "truth") if getattr(clip, kind) is not None}
    if given != job.source.provides - {"camera"} or len(clip.frames) != job.row["t_len"]:
        raise ValueError(
            f"teacher {job.teacher}: expected {job.row['t_len']} frames and {sorted(job.source.provides)} as declared, "
            f"found {len(clip.frames)} and {sorted(given)}"
        )
    return clip


def _request(job: Job, audio: np.ndarray | None = None) -> ClipRequest:
    return clip_request(job.data, job.row, job.person, size=job.size, seed=job.seed, audio=audio)


def _by_teacher(jobs: list[Job], done: list[Made], models: Mapping[str, VideoModel]) -> list[dict[str, Any]]:
    """A line for each teacher that made clips of this shard: whose model, how many clips, what they look like on average."""
    lines = []
    for name in sorted({job.teacher for job in jobs}):
        own = [
            (job.row["t_len"], made.qc) for job, made in zip(jobs, done, strict=True) if job.teacher == name
        ]
        unknown = {"model": "", "revision": "", "licence": ""}
        card = models[name].card.row if name in models else unknown
        means = {kind: float(np.mean([qc[kind] for _, qc in own])) for kind in own[0][1]}
        lines.append({"teacher": name, **card, "clips": len(own), "frames": sum(n for n, _ in own), **means})
    return lines


def _report(stage: Stage, jobs: list[Job], done: list[Made]) -> None:
    rows, mixed = [job.row for job in jobs], len(stage.params.teacher.sources) > 1
    captions = [
        f"{job.teacher + ': ' if mixed else ''}{job.row['id']}\n{(job.row['text'] or '')[:40]}"
        for job in jobs
    ]
    contact_sheet(
        stage.reports / "contact_sheet.png",
        [made.picture for made in done][:30],
        captions[:30],
        columns=6,
        cell=256,
        title=f"teacher, shard {stage.shard}: red = point tracks by optical flow",
    )
    frames = [row["t_len"] for row in rows]
    known = [made.mask_iou for made in done if made.mask_iou is not None]
    stage.write_metrics(
        {
            "clips": len(rows),
            "frames": sum(frames),
            "mask_iou": float(np.mean(known)) if known else None,
            "mask_iou_worst": min(known, default=None),
            "tracks_alive": float(np.average([made.qc["tracks_alive"] for made in done], weights=frames)),
            "foreground_share": float(
                np.average([made.qc["foreground_share"] for made in done], weights=frames)
            ),
        },
        headline=("clips", "tracks_alive", "mask_iou"),
    )


if __name__ == "__main__":
    run_stage("teacher", main, sharded=True)
