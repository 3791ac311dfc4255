"""Stage 3, teacher: talking videos of the planned clips, with foreground masks and point tracks.

Writes per shard `<clip>.mp4` (25 fps, H.264 + AAC), `aux.zarr` (masks/<clip>, tracks/<clip>, cameras/<clip>) and
`catalog.parquet`; apart from them `data/truth/shard-<k>.zarr`, the true surface, which only evaluation reads.
Backends: `procedural` renders the performance; `folder` takes videos made elsewhere (one `<clip>.mp4` for each clip of
the speech catalogue, e.g. by a video diffusion model given our portrait and wav): those come without truth.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file
from avatar_core.io.catalog import write_catalog
from avatar_core.io.images import contact_sheet
from avatar_core.io.store import Store, write_arrays
from avatar_core.io.video import read_video, write_mp4
from avatar_core.perception.backends import PerceptionConfig, clip_masks
from avatar_core.procedural.people import Identity, Person, neutral_face
from avatar_core.procedural.performance import perform, sample_style
from avatar_core.speech import phonemes_from_json
from avatar_core.teacher.procedural import play, truth_vertex_ids
from stages.artifacts import Artifacts, PersonRecord
from stages.common import Stage, run_stage
from stages.params import TeacherParams

MAX_RECORDED_FRAMES = 1500  # a recorded clip's frames are held in memory at once


@dataclass(frozen=True)
class Job:
    """What one worker needs for one clip."""

    row: dict[str, Any]
    person: PersonRecord
    params: TeacherParams
    perception: PerceptionConfig
    seed: int
    data: Artifacts
    scratch: Path


def main(stage: Stage) -> None:
    """Make the talking videos of one shard."""
    params = stage.params.teacher
    data = Artifacts.of(stage)
    people = {p.id: p for p in data.people()}
    rows = [row for row in data.planned_clips() if row["shard"] == stage.shard]
    scratch = stage.scratch(stage.data / "identities", stage.data / "speech")
    jobs = [
        Job(r, people[r["identity"]], params, stage.params.perception, _clip_seed(stage, r), data, scratch)
        for r in rows
    ]
    done = stage.map(_make, jobs)

    out, truth = stage.fresh(stage.out), {}
    arrays: dict[str, np.ndarray] = {}
    for row in rows:
        shutil.copyfile(scratch / f"{row['id']}.mp4", out / f"{row['id']}.mp4")
        store = Store(scratch / f"{row['id']}.zarr")
        arrays |= {f"{kind}/{row['id']}": store.read(kind) for kind in ("masks", "tracks")}
        if "positions" in store:
            truth[row["id"]] = store.read("positions")
            for name in ("viewmat", "K"):
                truth[f"{name}/{row['id']}"] = store.read(name)
    write_arrays(out / "aux.zarr", arrays)
    # Evaluation needs to find an empty store, not none, when the videos come without truth.
    write_arrays(
        stage.data / "truth" / f"shard-{stage.shard}.zarr", {**truth, "vertex_ids": truth_vertex_ids()}
    )
    write_catalog(
        out / "catalog.parquet",
        [
            row | {"backend": params.backend, "sha256": sha256_file(out / f"{row['id']}.mp4"), "qc": qc}
            for row, (qc, _) in zip(rows, done, strict=True)
        ],
    )
    _report(stage, rows, done)


def _clip_seed(stage: Stage, row: dict[str, Any]) -> int:
    # A sentence seen close and at a distance is one performance.
    return stage.entropy("performance", row["identity"], row["text"]) % 2**31


_built: dict[str, Person] = {}  # the last person a worker built: its clips come one after the other


def _person(record: PersonRecord) -> Person:
    if record.id not in _built:
        _built.clear()
        _built[record.id] = Person.build(Identity(record.id, record.seed, record.attributes))
    return _built[record.id]


def _make(job: Job) -> tuple[dict[str, float], np.ndarray]:
    """One clip into the scratch folder, unless a killed run left it there whole."""
    name = job.row["id"]
    video, store = job.scratch / f"{name}.mp4", job.scratch / f"{name}.zarr"
    if not (video.is_file() and store.is_dir()):
        audio = job.data.audio(name)
        if job.params.backend == "folder":
            arrays, frames = _recorded(job)
        else:
            arrays, frames = _procedural(job, audio)
        write_arrays(store, arrays)
        write_mp4(video, frames, audio=audio, crf=job.params.crf)
    frames = read_video(video, MAX_RECORDED_FRAMES)
    masks, tracks = Store(store).read("masks"), Store(store).read("tracks")
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
    return qc, picture


def _procedural(job: Job, audio: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    row, params = job.row, job.params
    speech = phonemes_from_json(job.data.phonemes_file(row["id"]), audio)
    performance = perform(speech, row["t_len"], job.seed, sample_style(job.person.seed))
    size = params.full_body_size if row["framing"] == "full_body" else params.size
    clip, truth = play(
        _person(job.person),
        performance,
        row["framing"],
        size,
        neutral=neutral_face(),
        supersample=params.supersample,
        vertex_ids=truth_vertex_ids(),
        tracks=job.perception.point_tracker,
    )
    arrays = {"masks": clip.masks, "tracks": clip.tracks, "positions": truth.positions}
    return arrays | {"viewmat": truth.camera.viewmat, "K": truth.camera.K}, clip.frames


def _recorded(job: Job) -> tuple[dict[str, np.ndarray], np.ndarray]:
    path = Path(job.params.folder) / f"{job.row['id']}.mp4"
    if not path.is_file():
        raise UserError(f"{path}: expected the video of clip {job.row['id']}, found no such file")
    frames = read_video(path, MAX_RECORDED_FRAMES)
    if abs(len(frames) - job.row["t_len"]) > 1:
        raise UserError(
            f"{path}: expected {job.row['t_len']} frames at 25 fps as its sound, found {len(frames)}"
        )
    frames = frames[: job.row["t_len"]]
    masks = clip_masks(job.perception.mask_detector, frames)
    return {
        "masks": masks,
        "tracks": job.perception.point_tracker.track(frames, masks),
    }, frames


def _report(
    stage: Stage, rows: list[dict[str, Any]], done: list[tuple[dict[str, float], np.ndarray]]
) -> None:
    captions = [f"{row['id']}\n{(row['text'] or '')[:40]}" for row in rows]
    contact_sheet(
        stage.reports / "contact_sheet.png",
        [picture for _, picture in done][:30],
        captions[:30],
        columns=6,
        cell=256,
        title=f"teacher, shard {stage.shard}: red = point tracks by optical flow",
    )
    frames = [row["t_len"] for row in rows]
    stage.write_metrics(
        {
            "clips": len(rows),
            "frames": sum(frames),
            "tracks_alive": float(np.average([qc["tracks_alive"] for qc, _ in done], weights=frames)),
            "foreground_share": float(np.average([qc["foreground_share"] for qc, _ in done], weights=frames)),
        },
        headline=("clips", "tracks_alive"),
    )


if __name__ == "__main__":
    run_stage("teacher", main, sharded=True)
