"""Stage 9, evaluate: unseen people saying unseen sentences, judged against what the teacher does with the same sound.

Rows: `ours`, `before_distill` (the generator without fine-tuning), `pose_driven` (stage baseline: the same sound moves bones and 52
face actions), `video_diffusion` (mouths sampled from the score teacher, set into ours: `evaluate_diffusion`). Bounds:
`ground_truth` (the teacher's own video; for FID and FVD half of the videos against the other half),
`mismatched_audio` (ours driven by another sentence, judged with the clip's own) and `another_take` (the same person's own video of
another sentence; as a set the same videos, so FID and FVD are 0): what knows nothing of the sound, as ours and as the teacher look.
A metric that does not tell a bound from ours says nothing here. Published systems are rows where `evaluate.baselines` names them.
Per row the ten metrics of the paper, with intervals over people; lips, motion and vertex errors against the true surface, where the
teacher keeps one; the fits of the training clips against their truth. Writes `videos/<clip>.mp4` (teacher left, ours right),
`table.csv`, `clips.csv` (each clip's part in it) and metrics; `by_teacher.csv` where several teachers made the test clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatar_core.clock import MEL_PER_FRAME, SAMPLES_PER_FRAME
from avatar_core.embed.codec import MotionCodec
from avatar_core.errors import UserError
from avatar_core.fit.deform import camera_for
from avatar_core.fit.pictures import clip_background
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import generate
from avatar_core.io.images import contact_sheet, to_uint8
from avatar_core.io.video import write_mp4
from avatar_core.metrics.clip import Clip, Value
from avatar_core.metrics.suite import ClipScores, score_clip, summarise
from avatar_core.particles.background import Room
from avatar_core.particles.canonical import Canonical, load_canonical
from avatar_core.particles.deformation import LocalFrames
from avatar_core.particles.layout import ParticleLayout, make_layout
from avatar_core.perception.instruments import Critics, load_critics
from avatar_core.speak.render import render_motion
from avatar_core.speak.student import Student, load_student
from avatar_core.teacher import conventional_camera
from stages.artifacts import Artifacts, PersonRecord, Row
from stages.common import Stage, run_stage
from stages.evaluate_baselines import baseline_frames, baseline_videos, check_baselines, not_run
from stages.evaluate_diffusion import diffused, load_talker, noted, why_not
from stages.evaluate_teachers import by_teacher
from stages.evaluate_truth import DrivenClip, drive_report, fit_report, silence_report
from stages.requests import clip_request

DRIVEN = ("ours", "before_distill", "pose_driven", "mismatched_audio")
ROWS = ("ground_truth", *DRIVEN, "video_diffusion", "another_take")
NOT_RUN = {
    "pose_driven": "not run: params.yaml: baseline.steps is 0",
    "mismatched_audio": "not run: there is no other sentence (params.yaml: speech.test_clips)",
    "another_take": "not run: there is no other sentence of the same person and framing (params.yaml: speech.test_clips)",
}
HEADLINE = (
    "ours.lip_correlation",
    "ours.closure_recall",
    "ours.false_closures",
    "ours.silence_opening_most_mm",
    "ours.LVE_mm",
    "ours.head_slow_energy_ratio",
    "ours.hand_slow_energy_ratio",
    "ours.SyncC",
    "ours.CSIM",
    "ours.FID",
    "ours.FVD",
)


@dataclass(frozen=True)
class Job:
    stage: Stage
    row: Row
    person: PersonRecord
    other: Row | None  # whose sound drives the mismatched row
    take: Row | None  # the same person under the same framing with another sentence
    baselines: dict[str, Path]  # name -> folder of its videos


@dataclass(frozen=True)
class Outcome:
    """What a worker found out about one clip: judgements by table row, motion by table row, frames to show."""

    row: Row
    scored: dict[str, ClipScores]
    driven: dict[str, DrivenClip]
    identity: np.ndarray  # (E,) mean identity embedding of our frames
    shown: np.ndarray  # (2,4,H,W,3) teacher and ours


def main(stage: Stage) -> None:
    """Judge the student on unseen people and sentences."""
    data, params = Artifacts.of(stage), stage.params.evaluate
    for metric in params.chosen.values():
        metric.check()
    rows = data.teacher_clips("test")
    if not rows:
        raise UserError(
            "params.yaml: identities.test: expected unseen people to judge the student on, found no clip of any; "
            "`dvc repro distill` makes the student without"
        )
    check_baselines(stage, rows)
    compared = baseline_videos(stage, rows)
    out = stage.fresh(stage.out)
    (out / "videos").mkdir()
    people = {person.id: person for person in data.people()}
    jobs = [
        Job(stage, row, people[row["identity"]], _another(rows, row), _take(rows, row), compared)
        for row in rows
    ]
    outcomes = stage.map(_judge_clip, jobs)
    names, why = (*ROWS, *params.compared), NOT_RUN | not_run(params.compared)
    why["video_diffusion"] = why_not(stage) or "not run: no mouth is seen in any of our videos"
    scored = {name: [o.scored[name] for o in outcomes if name in o.scored] for name in names}
    table = {
        name: summarise(clips, params.chosen, draws=params.bootstrap, seed=stage.seed, why=why.get(name))
        for name, clips in scored.items()
    }
    if scored["video_diffusion"]:
        table["video_diffusion"] = noted(table["video_diffusion"], stage.params.score.teacher.size)
    stage.write_csv(
        "table", [_csv_row(name, m, v) for name, values in table.items() for m, v in values.items()]
    )
    judged = [c for name in names for c in scored[name]]
    of_clips = [m for m in params.chosen if any(isinstance(c.parts.get(m), float) for c in judged)]
    stage.write_csv("clips", [_clip_row(name, c, of_clips) for name in names for c in scored[name]])
    if lines := by_teacher(rows, scored, params.chosen):
        stage.write_csv("by_teacher", lines)
    metrics: dict[str, Any] = {f"{row}.{m}": table[row][m].value for row in names for m in params.chosen}
    for name in names:
        offsets = [c.offset for c in scored[name] if c.offset is not None]
        metrics[f"{name}.sync_offset_frames"] = float(np.mean(offsets)) if offsets else None
    for name in DRIVEN:
        driven = [o.driven[name] for o in outcomes if name in o.driven]
        metrics |= {f"{name}.{k}": v for k, v in drive_report(stage, driven).items()}
    metrics |= {f"ours.{k}": v for k, v in silence_report(stage).items()}
    metrics |= {f"fit.{k}": v for k, v in fit_report(stage, data.fitted_clips("train")).items()}
    metrics |= {f"ours.{k}": v for k, v in _identity_report(stage, outcomes).items()}
    metrics |= {"test_clips": len(rows), "test_identities": len({r["identity"] for r in rows})}
    stage.write_metrics(dict.fromkeys(HEADLINE) | metrics, HEADLINE)  # without a true surface: unavailable
    _show(stage, outcomes)


def _another(rows: Sequence[Row], row: Row) -> Row | None:
    """A test clip of the same framing with another sentence; where there is none, any other sentence, if there is one."""
    others = [r for r in rows if r["text"] != row["text"]]
    same = [r for r in others if r["framing"] == row["framing"]]
    return next(iter(same or others), None)


def _take(rows: Sequence[Row], row: Row) -> Row | None:
    """A clip of the same person and framing with another sentence, if there is one."""
    alike = ("identity", "framing", "shard")
    return next((r for r in rows if r["text"] != row["text"] and all(r[k] == row[k] for k in alike)), None)


def _judge_clip(job: Job) -> Outcome:
    stage, row = job.stage, job.row
    data, critics, layout = Artifacts.of(stage), load_critics(), make_layout(stage.params.particles)
    canonical = load_canonical(data.canonical_file(row))
    portrait = data.portrait(row["identity"])
    truth, audio = data.frames(row), data.audio(row["id"])
    # Our avatar is as large as its stature prior says; where it must stand to look like the teacher's picture is measured.
    xy, confidence = stage.params.perception.named(row["id"]).keypoint_detector.keypoints(truth)
    filmed_from = None if conventional_camera(row["backend"]) else data.portrait_distance(row)
    camera = camera_for(truth, xy, confidence, canonical, layout, row["framing"], filmed_from)
    mel, masks = data.log_mel(row["id"])[:], data.masks(row)
    # Before the same room as the teacher's person: a portrait's own backdrop says nothing about the avatar.
    canonical = replace(canonical, background=Room(to_uint8(clip_background(truth, masks))))
    device = stage.compute.device
    student = load_student(data.student_file).to(device)
    generator = Generator.from_tensors(*data.checkpoint("generator", "generator")).to(device)
    codec = MotionCodec.from_tensors(*data.checkpoint("embed", "codec")).to(device)
    students = {
        "ours": (student, audio),
        "before_distill": (replace(student, generator=generator, codec=codec), audio),
    }
    if job.other:
        students["mismatched_audio"] = (student, _fit_length(data.audio(job.other["id"]), len(audio)))
    if data.has_checkpoint("baseline", "generator"):
        posed = Generator.from_tensors(*data.checkpoint("baseline", "generator")).to(device)
        coded = MotionCodec.from_tensors(*data.checkpoint("baseline", "codec")).to(device)
        students["pose_driven"] = (replace(student, generator=posed, codec=coded), audio)
    close = row["framing"] == "face"
    template = Clip(
        row["id"], truth, mel, None, portrait, mouth_seen=close, hands_seen=not close,
        person=row["identity"], mask=masks, audio=audio,
    )  # fmt: skip
    judge = partial(score_clip, critics=critics, metrics=stage.params.evaluate.chosen, device=device)
    scored = {"ground_truth": judge(replace(template, row="ground_truth"))}
    if job.take:
        take = data.frames(job.take)[: len(truth)]
        n = len(take)  # over the frames that both have: a loop would cut in mid-motion
        clip = replace(
            template, row="another_take", frames=take, truth=truth[:n], log_mel=mel[: MEL_PER_FRAME * n]
        )
        scored["another_take"] = judge(replace(clip, mask=masks[:n], audio=audio[: SAMPLES_PER_FRAME * n]))
    driven: dict[str, DrivenClip] = {}
    videos: dict[str, np.ndarray] = {}
    for name, (model, sound) in students.items():
        x = generate(model.generator, sound, _clip_seed(stage, row), model.sample)[: len(truth)]
        videos[name] = np.concatenate(list(render_motion(model, canonical, layout, x, camera, "full")))
        scored[name] = judge(replace(template, row=name, frames=videos[name], truth=truth))
        driven[name] = DrivenClip(row, _particles(model, canonical, layout, x), data.truth(row), canonical)
    if talker := load_talker(stage):
        made = diffused(talker, videos["ours"], mel, critics, _clip_seed(stage, row))
        if made is not None:
            scored["video_diffusion"] = judge(
                replace(template, row="video_diffusion", frames=made, truth=truth)
            )
    request = clip_request(data, row, job.person, size=max(truth.shape[1:3]), seed=0, audio=audio)
    for name, folder in job.baselines.items():
        if (frames := baseline_frames(folder, request)) is not None:
            scored[name] = judge(replace(template, row=name, frames=frames, truth=truth))
    write_mp4(
        stage.out / "videos" / f"{row['id']}.mp4",
        np.concatenate([truth, videos["ours"]], 2),
        audio=audio,
        crf=20,
    )
    embedding = critics.identity(videos["ours"][::5]).mean(0)
    shown = np.linspace(0, len(truth) - 1, 6).round().astype(int)[1:-1]
    return Outcome(row, scored, driven, embedding, np.stack([truth[shown], videos["ours"][shown]]))


def _clip_seed(stage: Stage, row: Row) -> int:
    return stage.entropy("drive", row["id"]) % 2**31


def _fit_length(audio: np.ndarray, length: int) -> np.ndarray:
    """The first `length` samples, from the start again where there are fewer."""
    return np.resize(audio, length).astype(np.float32)


def _particles(student: Student, canonical: Canonical, layout: ParticleLayout, x: torch.Tensor) -> np.ndarray:
    """Base particles (T,N,3) of motion latents."""
    with torch.no_grad():
        deformation = student.codec.decode(x, float(canonical.stature))
        splats = LocalFrames(canonical, layout, x.device).compose(deformation)
    return splats.means[:, : canonical.n_base].cpu().numpy()


def _identity_report(stage: Stage, outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """Is each avatar more like its own portrait than like anybody else's? Cosines of embeddings against all portraits."""
    critics: Critics = load_critics()
    data = Artifacts.of(stage)
    known = {p.id: critics.identity(data.portrait(p.id))[0] for p in data.people()}
    own, other = [], []
    for outcome in outcomes:
        unit = outcome.identity / np.linalg.norm(outcome.identity)
        cosines = {name: float(unit @ e / np.linalg.norm(e)) for name, e in known.items()}
        own.append(cosines.pop(outcome.row["identity"]))
        other.append(max(cosines.values()) if cosines else -1.0)
    return {
        "csim_own": float(np.mean(own)),
        "csim_best_other": float(np.mean(other)),
        "csim_recognised": float(np.mean([a > b for a, b in zip(own, other, strict=True)])),
    }


def _csv_row(row: str, metric: str, value: Value) -> dict[str, Any]:
    return {
        "row": row,
        "metric": metric,
        "value": "unavailable" if value.value is None else value.value,
        "low": "" if value.low is None else value.low,
        "high": "" if value.high is None else value.high,
        "samples": value.samples,
        "backend": value.backend,
        "note": value.note,
    }


def _clip_row(row: str, clip: ClipScores, metrics: list[str]) -> dict[str, Any]:
    numbers = {m: clip.parts[m] for m in metrics if isinstance(clip.parts.get(m), float)}
    return {"row": row, "clip": clip.id, "person": clip.person} | {m: numbers.get(m, "") for m in metrics}


def _show(stage: Stage, outcomes: Sequence[Outcome]) -> None:
    images, captions = [], []
    for outcome in outcomes:
        for name, frames in zip(("teacher", "ours"), outcome.shown, strict=True):
            images += list(frames)
            captions += [f"{name} {outcome.row['id'][-18:]}"] * len(frames)
    title = "evaluate: unseen people, unseen sentences; same sound"
    contact_sheet(stage.reports / "contact_sheet.png", images, captions, columns=8, cell=192, title=title)


if __name__ == "__main__":
    run_stage("evaluate", main)
