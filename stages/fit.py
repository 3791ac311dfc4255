"""Stage 5, fit: a canonical avatar of every person from the portrait alone, then the deformation dG of every training clip.

Writes per shard `canonical/<identity>.safetensors` and `.ply` (opens in any splat viewer), `trajectories.zarr`,
`cameras.zarr` (the camera found for each clip), `poses.zarr` (its bones and face actions, for the pose-driven baseline alone) and
`catalog.parquet`. Monocular: the truth is not read here.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from avatar_core.errors import UserError
from avatar_core.fit.deform import ClipFit, Observed, fit_clips
from avatar_core.fit.nodes import make_nodes
from avatar_core.fit.together import SHORTEST
from avatar_core.io.catalog import write_catalog
from avatar_core.io.checkpoints import has_checkpoint
from avatar_core.io.images import contact_sheet
from avatar_core.io.store import Store, write_arrays, write_trajectories
from avatar_core.particles.canonical import load_canonical, save_canonical, write_ply
from avatar_core.particles.layout import make_layout
from avatar_core.personalise.personalise import Portrait, personalise_all
from avatar_core.teacher import conventional_camera
from avatar_core.template import load_template
from stages.artifacts import POSE, Artifacts, PersonRecord, Row
from stages.common import Stage, run_stage
from stages.memory import fit_at_once

TRAINING_WINDOW = 64  # frames a chunk of the trajectory store
LEAST_CONFIDENCE = 0.3  # clips fitted worse than this on average are listed but not trained on


@dataclass(frozen=True)
class PeopleJob:
    """People whose portraits are refined in common steps where there are several."""

    stage: Stage
    people: list[PersonRecord]
    scratch: Path


@dataclass(frozen=True)
class ClipsJob:
    """Clips of one framing, fitted in common steps where there are several."""

    stage: Stage
    rows: list[Row]
    distances: list[float]  # m, from which the person's portrait was taken
    scratch: Path


def main(stage: Stage) -> None:
    """Personalise the people of one shard and fit their clips."""
    teacher = stage.data / "teacher" / f"shard-{stage.shard}"
    data = Artifacts.of(stage)
    people = [p for p in data.people() if p.shard == stage.shard]
    assert stage.shard is not None
    # the clips of other shards are none of its inputs: they may not be there
    rows = Artifacts(stage.data, [stage.shard]).teacher_clips("train", "val")
    scratch = stage.scratch(stage.data / "identities", teacher)
    at_once = fit_at_once(stage.params, stage.compute)
    parts = [PeopleJob(stage, people[k : k + at_once], scratch) for k in range(0, len(people), at_once)]
    portraits = [found for part in stage.map(_personalise, parts, "portrait") for found in part]
    distance = {p.id: found["distance_m"] for p, found in zip(people, portraits, strict=True)}
    jobs = [
        ClipsJob(stage, of, [distance[r["identity"]] for r in of], scratch) for of in _together(rows, at_once)
    ]
    found = {id: m for metrics in stage.map(_fit, jobs, "clip") for id, m in metrics.items()}
    clips = [found[r["id"]] for r in rows]

    out = stage.fresh(stage.out)
    for person in people:
        for suffix in (".safetensors", ".json"):
            target = out / "canonical" / f"{person.id}{suffix}"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(scratch / f"{person.id}{suffix}", target)
        write_ply(
            out / "canonical" / f"{person.id}.ply", load_canonical(scratch / f"{person.id}.safetensors")
        )
    count = len(make_layout(stage.params.particles))
    cameras = {
        f"portrait_distance/{person.id}": np.array([found["distance_m"]], np.float32)
        for person, found in zip(people, portraits, strict=True)
    }
    arrays = {
        "mean_offset": ("float16", count, 3),
        "rotation": ("float16", count, 3),
        "color": ("float16", count, 3),
        "confidence": ("float32", 1, 1),
    }
    poses: dict[str, np.ndarray] = {}
    with write_trajectories(out / "trajectories.zarr", arrays, window=TRAINING_WINDOW) as writer:
        for row, metrics in zip(rows, clips, strict=True):
            store = Store(scratch / f"{row['id']}.zarr")
            values = {name: store.read(name) for name in arrays}
            row["t_start"], row["t_len"] = writer.append(row["id"], **values)
            cameras |= {f"{name}/{row['id']}": store.read(name) for name in ("viewmat", "K")}
            poses |= {f"{name}/{row['id']}": store.read(name) for name in POSE}
            row["qc"] = {k: v for k, v in metrics.items() if np.isfinite(v)}
            if metrics["confidence"] < LEAST_CONFIDENCE:
                row["status"] = "rejected"
                row["reject_reason"] = f"mean confidence {metrics['confidence']:.2f} below {LEAST_CONFIDENCE}"
    write_arrays(out / "cameras.zarr", cameras)
    write_arrays(out / "poses.zarr", poses)
    write_catalog(out / "catalog.parquet", rows)
    _report(stage, people, portraits, rows, clips, scratch)


def _personalise(job: PeopleJob) -> list[dict[str, float]]:
    params, data = job.stage.params, Artifacts.of(job.stage)
    files = {
        p.id: (job.scratch / f"{p.id}.safetensors", job.scratch / f"{p.id}.preview.zarr") for p in job.people
    }
    todo = [id for id, (path, preview) in files.items() if not (has_checkpoint(path) and preview.is_dir())]
    portraits = [Portrait(data.portrait(id), name=id) for id in todo]
    made = personalise_all(portraits, params.perception, config=params.avatar, compute=job.stage.compute)
    for portrait, (canonical, camera, fit) in zip(portraits, made, strict=True):
        path, preview = files[portrait.name]
        save_canonical(path, canonical)
        _, depth = camera.project(canonical.means[: canonical.n_base])
        metrics = np.array([fit.psnr_foreground, fit.psnr_face, depth.mean()], np.float32)
        write_arrays(preview, {"portrait": portrait.image, "rendered": fit.picture, "metrics": metrics})
    names = ("psnr_foreground", "psnr_face", "distance_m")
    return [
        dict(zip(names, map(float, Store(preview).read("metrics")), strict=True))
        for _, preview in files.values()
    ]


def _together(rows: list[Row], at_once: int) -> list[list[Row]]:
    """Rows of one framing, at most so many: in their order, where one is fitted at a time."""
    alike = rows if at_once == 1 else sorted(rows, key=lambda r: r["framing"])
    return [
        of[k : k + at_once]
        for _, of in ((f, list(group)) for f, group in groupby(alike, key=lambda r: r["framing"]))
        for k in range(0, len(of), at_once)
    ]


def _fit(job: ClipsJob) -> dict[str, dict[str, float]]:
    """Metrics by clip."""
    todo = [k for k, row in enumerate(job.rows) if not _place(job, row).is_dir()]
    seen = {k: _observed(job, k) for k in todo}
    many = [k for k in todo if len(seen[k].frames) >= SHORTEST]
    if len(many) > 1:
        with suppress(UserError):  # which of them cannot be fitted is said below
            for k, fit in zip(many, _fit_clips(job, [seen[k] for k in many]), strict=True):
                _write(job, job.rows[k], seen[k], fit)
    for k in (k for k in todo if not _place(job, job.rows[k]).is_dir()):
        try:
            (fit,) = _fit_clips(job, [seen[k]])
        except UserError as error:
            raise UserError(f"clip {job.rows[k]['id']}: {error}") from None
        _write(job, job.rows[k], seen[k], fit)
    stores = {row["id"]: Store(_place(job, row)) for row in job.rows}
    return {
        id: dict(zip(store.attrs["metrics"], map(float, store.read("metrics")), strict=True))
        for id, store in stores.items()
    }


def _place(job: ClipsJob, row: Row) -> Path:
    return job.scratch / f"{row['id']}.zarr"


def _observed(job: ClipsJob, number: int) -> Observed:
    row, data = job.rows[number], Artifacts.of(job.stage)
    frames = data.frames(row)
    detectors = job.stage.params.perception.named(row["id"])
    xy, confidence = detectors.keypoint_detector.keypoints(frames)
    canonical = load_canonical(job.scratch / f"{row['identity']}.safetensors")
    filmed_from = None if conventional_camera(row["backend"]) else job.distances[number]
    return Observed(
        frames, data.masks(row), data.tracks(row), xy, confidence, canonical, row["framing"], filmed_from
    )


def _fit_clips(job: ClipsJob, clips: list[Observed]) -> list[ClipFit]:
    template, layout = load_template(), make_layout(job.stage.params.particles)
    nodes, config = make_nodes(template, layout), job.stage.params.fit
    return fit_clips(clips, layout, template, config, nodes=nodes, compute=job.stage.compute)


def _write(job: ClipsJob, row: Row, seen: Observed, fit: ClipFit) -> None:
    frames = seen.frames
    metrics = {k: float(v) for k, v in fit.metrics.items()} | {"confidence": float(fit.confidence.mean())}
    deformation = fit.deformation
    shown = np.linspace(0, len(frames) - 1, 4).round().astype(int)
    write_arrays(
        _place(job, row),
        {
            "mean_offset": np.asarray(deformation.mean_offset, np.float32),
            "rotation": np.asarray(deformation.rotation, np.float32),
            "color": np.asarray(deformation.color, np.float32),
            "confidence": fit.confidence[:, None, None].astype(np.float32),
            **vars(fit.pose),
            "viewmat": fit.camera.viewmat,
            "K": fit.camera.K,
            "metrics": np.array(list(metrics.values()), np.float64),
            "shown": np.concatenate([frames[shown], fit.frames[shown]]),
        },
        {"metrics": list(metrics)},
    )


def _report(stage: Stage, people, portraits, rows, clips, scratch: Path) -> None:
    images, captions = [], []
    for person, metrics in zip(people, portraits, strict=True):
        preview = Store(scratch / f"{person.id}.preview.zarr")
        images += [preview.read("portrait"), preview.read("rendered")]
        captions += [f"{person.id}\nportrait", f"canonical\n{metrics['psnr_foreground']:.1f} dB"]
    images += [np.ones((8, 8, 3), np.float32)] * (-len(images) % 8)
    captions += [""] * (len(images) - len(captions))
    for row, metrics in list(zip(rows, clips, strict=True))[:: max(1, len(rows) // 8)][:10]:
        shown = Store(scratch / f"{row['id']}.zarr").read("shown")
        for target, fitted in zip(shown[:4], shown[4:], strict=True):
            images += [target, fitted]
            captions += [f"{row['id'][-18:]}\nteacher", f"fit\n{metrics['psnr_foreground']:.1f} dB"]
    title = f"fit, shard {stage.shard}: portraits, then teacher and fitted frames"
    contact_sheet(stage.reports / "contact_sheet.png", images, captions, columns=8, cell=192, title=title)
    stage.write_csv(
        "clips",
        [
            {"clip": r["id"], "framing": r["framing"]} | {k: m[k] for k in sorted(m)}
            for r, m in zip(rows, clips, strict=True)
        ],
    )

    def mean(values: list[float]) -> float | None:
        finite = [v for v in values if np.isfinite(v)]
        return float(np.mean(finite)) if finite else None

    faces = [m for r, m in zip(rows, clips, strict=True) if r["framing"] == "face"]
    stage.write_metrics(
        {
            "portrait_psnr_foreground": mean([p["psnr_foreground"] for p in portraits]),
            "portrait_psnr_face": mean([p["psnr_face"] for p in portraits]),
            "clip_psnr_foreground": mean([m["psnr_foreground"] for m in clips]),
            "clip_psnr_face": mean([m["psnr_face"] for m in faces]),
            "clips": len(rows),
            "rejected": sum(r["status"] == "rejected" for r in rows),
        },
        headline=(
            "clips",
            "rejected",
            "portrait_psnr_foreground",
            "clip_psnr_foreground",
            "clip_psnr_face",
        ),
    )


if __name__ == "__main__":
    run_stage("fit", main, sharded=True)
