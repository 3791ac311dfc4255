"""Stage 7b, baseline: the pose-driven way on the same particles, clips, sound and budget, for a row of `evaluate`.

What the fit found of bones and 52 face actions, without the nodes' motion and the shading, is coded as the particles' own motion
is, and the same generator learns it from the same sound: an audio-to-pose converter before a pose-driven avatar. Writes
`codec.safetensors` and `generator.safetensors`; nothing where `baseline.steps` is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from avatar_core.embed.batches import LatentClip
from avatar_core.embed.codec import FittedClip, MotionCodec
from avatar_core.embed.codec_fit import fit_codec
from avatar_core.fit.nodes import make_nodes
from avatar_core.fit.pose import Pose, pose_deformation
from avatar_core.fit.rig import FitRig, make_rig
from avatar_core.generator.calibrate import calibrate_motion
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import generate
from avatar_core.generator.train import train_generator
from avatar_core.geometry.camera import Camera
from avatar_core.io.checkpoints import save_checkpoint
from avatar_core.io.images import contact_sheet
from avatar_core.io.store import Store, write_arrays
from avatar_core.particles.canonical import load_canonical
from avatar_core.particles.deformation import HEAD, WORLD, WRIST_LEFT, WRIST_RIGHT, Deformation, LocalFrames
from avatar_core.particles.framing import VISIBLE
from avatar_core.particles.layout import ParticleBudgets, make_layout
from avatar_core.particles.splats import rasterize_splats
from avatar_core.template import load_template
from avatar_core.training.loop import history_rows
from stages.artifacts import Artifacts, Row
from stages.common import Stage, run_stage

FRAMES = {"face": (HEAD,), "hand": (WRIST_LEFT, WRIST_RIGHT), "body": (WORLD,)}
SHOWN = 4  # frames of a clip in the contact sheet
HEADLINE = ("lip_correlation_to_pose", "unposed_face_mm", "unposed_hand_mm", "unposed_body_mm")


def main(stage: Stage) -> None:
    """Train the pose-driven generator."""
    data = Artifacts.of(stage)
    rows, steps = data.fitted_clips("train"), stage.params.baseline.steps
    scratch = stage.scratch(stage.data / "fit", stage.data / "embed")
    out, clips = stage.fresh(stage.out), PosedClips(stage, rows, scratch)
    metrics: dict[str, float | None] = dict.fromkeys(HEADLINE)
    if steps:
        codec_config = replace(stage.params.embed.codec, seed=stage.entropy("codec") % 2**31)
        shown = [(row["t_len"], VISIBLE[row["framing"]]) for row in rows]
        codec = fit_codec(clips, clips.layout, codec_config, stage.compute, shown)
        generator = _train(stage, codec, clips, steps, scratch)
        metrics["lip_correlation_to_pose"] = _lip_correlation(stage, generator, codec, scratch)
        for name, (tensors, about) in {"codec": codec.tensors(), "generator": generator.tensors()}.items():
            save_checkpoint(out / f"{name}.safetensors", tensors, config=about, seed=stage.seed)
    else:
        stage.write_csv("loss", [])
    metrics |= {f"unposed_{k}_mm": v for k, v in _unposed(data, rows, clips).items()}
    stage.write_metrics({**metrics, "clips": len(rows), "steps": steps}, headline=HEADLINE)
    _show(stage, rows, clips)


@dataclass(frozen=True)
class PoseJob:
    """A clip whose motion by its pose alone is to lie at `path`."""

    stage: Stage
    row: Row
    path: Path


class PosedClips(Sequence[FittedClip]):
    """Fitted clips as bones and face actions alone move them: each is made once, in the scratch folder, and read when asked for."""

    def __init__(self, stage: Stage, rows: Sequence[Row], scratch: Path):
        self.data, self.rows = Artifacts.of(stage), rows
        self.layout = make_layout(stage.params.particles)
        self.jobs = [PoseJob(stage, row, scratch / f"{row['id']}.zarr") for row in rows]
        stage.map(_pose, self.jobs)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, k: int) -> FittedClip:  # type: ignore[override]
        row, store = self.rows[k], Store(self.jobs[k].path)
        means, turns = (torch.from_numpy(store.read(name)) for name in ("mean_offset", "rotation"))
        deformation = Deformation(means, turns, torch.zeros_like(means))
        confidence = self.data.trajectory(row)["confidence"]
        return FittedClip(deformation, VISIBLE[row["framing"]], float(store.attrs["stature"]), confidence)


def _pose(job: PoseJob) -> None:
    if job.path.is_dir():
        return
    data, layout = Artifacts.of(job.stage), make_layout(job.stage.params.particles)
    rig = _rig(data.canonical_file(job.row), job.row["framing"], job.stage.params.particles)
    found = pose_deformation(Pose.of(data.pose(job.row)), rig, layout)
    arrays = {"mean_offset": found.mean_offset.numpy(), "rotation": found.rotation.numpy()}
    write_arrays(job.path, arrays, {"stature": rig.stature})


@lru_cache(maxsize=4)  # clips come sorted by person
def _rig(canonical: Path, framing: str, particles: ParticleBudgets) -> FitRig:
    template, layout = load_template(), make_layout(particles)
    return make_rig(load_canonical(canonical), layout, template, framing, make_nodes(template, layout))


def _train(stage: Stage, codec: MotionCodec, posed: PosedClips, steps: int, scratch: Path) -> Generator:
    """As stage generator trains its own."""
    params, audio, data = stage.params.generator, stage.params.audio, Artifacts.of(stage)
    clips = _heard(codec, data, posed)
    unheard = _heard(codec, data, PosedClips(stage, data.fitted_clips("val"), scratch))
    config = replace(params.train, steps=steps, seed=stage.entropy("train") % 2**31)
    model = params.model.sized(codec, audio)
    codec.to("cpu")
    generator, curve = stage.train(
        steps, train_generator, clips, codec, config, model, audio=audio.features, checkpoint_dir=scratch
    )
    calibrate_motion(generator, clips, unheard, codec, stage.params.sample, config.seed)
    stage.write_csv("loss", history_rows(curve))
    return generator


def _heard(codec: MotionCodec, data: Artifacts, posed: PosedClips) -> list[LatentClip]:
    """Clips as stage generator has them, their latents those of the pose."""
    clips = []
    for row, clip in zip(posed.rows, posed, strict=True):
        deformation = clip.deformation.to(codec.head_to_body.device)
        with torch.no_grad():
            x = codec.encode(deformation, clip.stature, clip.visible).cpu().numpy()
        heard = {name: rows for name, rows in data.latents(row["id"]).items() if name != "x"}
        clips.append(LatentClip(x=x, visible=clip.visible, **heard))
    return clips


def _lip_correlation(stage: Stage, generator: Generator, codec: MotionCodec, scratch: Path) -> float | None:
    """Lip aperture made from the sound against the pose's own, on close clips of the val people (of training people without)."""
    data, found = Artifacts.of(stage), []
    rows = data.fitted_clips("val") or data.fitted_clips("train")[:3]
    for clip, row in zip(PosedClips(stage, rows, scratch), rows, strict=True):
        if row["framing"] == "face":
            with torch.no_grad():
                posed = codec.aperture(codec.encode(clip.deformation, clip.stature, clip.visible)).numpy()
                made = generate(generator, data.audio(row["id"]), stage.seed, stage.params.sample).cpu()
                made = codec.aperture(made).numpy()[: len(posed)]
            found.append(float(np.corrcoef(posed, made)[0, 1]))
    return float(np.mean(found)) if found and np.isfinite(found).all() else None


def _unposed(data: Artifacts, rows: Sequence[Row], clips: PosedClips) -> dict[str, float | None]:
    """Millimetres between the fitted particles and where the pose alone puts them, by region shown, every fifth frame."""
    sums: dict[str, list[float]] = {name: [] for name in FRAMES}
    for row, clip in zip(rows, clips, strict=True):
        fitted = Deformation.of(data.trajectory(row)).mean_offset[::5]
        gap = (fitted - clip.deformation.mean_offset[::5]).norm(dim=-1).numpy()
        for name, ids in FRAMES.items():
            if clip.visible[name]:
                sums[name].append(1000 * float(gap[:, np.isin(clips.layout.frame, ids)].mean()))
    return {name: float(np.mean(v)) if v else None for name, v in sums.items()}


def _show(stage: Stage, rows: Sequence[Row], clips: PosedClips) -> None:
    """Frames of some clips: the teacher's, the fit, and the fit's bones and face actions alone."""
    data, images, captions = Artifacts.of(stage), [], []
    for k in range(0, len(rows), max(1, len(rows) // 4)):
        row, frames = rows[k], data.frames(rows[k])
        shown = np.linspace(0, len(frames) - 1, SHOWN + 2).round().astype(int)[1:-1]
        local = LocalFrames(load_canonical(data.canonical_file(row)), clips.layout)
        camera = Camera(*data.camera(row), *frames.shape[2:0:-1])
        images += list(frames[shown])
        captions += [f"teacher {row['id'][-18:]}"] * SHOWN
        fitted = Deformation.of(data.trajectory(row))
        for name, motion in (("fit", fitted), ("bones and face actions", clips[k].deformation)):
            splats = local.compose(Deformation(*(v[shown] for v in vars(motion).values())))
            with torch.no_grad():
                picture, alpha = rasterize_splats(splats, camera, eps2d=local.canonical.eps2d(camera))
            images += list((picture + 0.5 * (1 - alpha)).clamp(0, 1).numpy())
            captions += [name] * SHOWN
    title = "baseline: what a pose model sees of the fits"
    contact_sheet(
        stage.reports / "contact_sheet.png", images, captions, columns=3 * SHOWN, cell=144, title=title
    )


if __name__ == "__main__":
    run_stage("baseline", main)
