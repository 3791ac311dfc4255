"""Stage 6, embed: the motion codec (E_X and its decoder) and the contrastive audio-particle embedding.

Writes `codec.safetensors` (dG of a frame <-> latents [body | face | hand]), `latents.zarr` (sound and latents of every clip: later
stages read them there) and `embedding.safetensors` (sound and motion in one space: frame-level and patch-level InfoNCE, a diagnosis
that no later stage reads), with retrieval accuracies on the val people where there are any. With `embed.aligned` the embedding is
trained first, with E_X, and `audio_encoder.safetensors`, its sound's side, goes to the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch

from avatar_core.audio.backends import AudioFeatures
from avatar_core.audio.features import log_mel
from avatar_core.embed.align import train_aligned
from avatar_core.embed.audio_encoder import AudioEncoder
from avatar_core.embed.batches import LatentClip
from avatar_core.embed.codec import FittedClip, MotionCodec
from avatar_core.embed.codec_fit import fit_codec
from avatar_core.embed.contrastive import Embedding, retrieval_accuracy, train_embedding
from avatar_core.io.checkpoints import save_checkpoint
from avatar_core.io.images import write_figure
from avatar_core.io.store import Store, array_writer
from avatar_core.particles.canonical import load_canonical
from avatar_core.particles.deformation import HEAD, WORLD, WRIST_LEFT, WRIST_RIGHT, Deformation
from avatar_core.particles.framing import VISIBLE
from avatar_core.particles.layout import ParticleLayout, make_layout
from avatar_core.training.loop import history_rows, one_thread
from stages.artifacts import Artifacts, Row, latents_in
from stages.common import Stage, run_stage

MOST_OTHERS = 24
FACES = [framing for framing, visible in VISIBLE.items() if visible["face"]]


def main(stage: Stage) -> None:
    """Fit the codec, then train the embedding."""
    params = stage.params.embed
    data, layout = Artifacts.of(stage), make_layout(stage.params.particles)
    features = stage.params.audio.features
    train, val = data.fitted_clips("train"), data.fitted_clips("val")
    compute = stage.compute
    codec = fit_codec(
        FittedClips(data, train),
        layout,
        replace(params.codec, seed=stage.entropy("codec") % 2**31),
        compute,
        [(row["t_len"], VISIBLE[row["framing"]]) for row in train],
    )
    out = stage.fresh(stage.out)
    config = replace(
        params.contrastive, dims=codec.dims, mels=features.bands, seed=stage.entropy("embedding") % 2**31
    )
    scratch = stage.scratch(stage.data / "fit")
    embedding = losses = None
    if params.aligned.enabled:
        faces = [row for row in train if row["framing"] in FACES]
        embedding, codec, losses = stage.train(
            config.steps,
            train_aligned,
            _coded(stage, codec, faces, scratch / "coefficients.zarr"),
            codec.cpu(),
            config,
            params.aligned,
            features,
            scratch,
        )
        tensors, about = AudioEncoder.of(embedding).tensors()
        save_checkpoint(out / "audio_encoder.safetensors", tensors, config=about, seed=config.seed)
        codec.to(compute.device)
    tensors, about = codec.tensors()
    save_checkpoint(out / "codec.safetensors", tensors, config=about, seed=stage.seed)

    with array_writer(out / "latents.zarr") as add:
        errors = encode_clips(data, codec, layout, features, train, add)
        val_errors = encode_clips(data, codec, layout, features, val, add)
        add_sounds(stage, data, features, [row["id"] for row in train], add)
    faces, val_faces = (
        [
            LatentClip(**data.latents(r["id"]), visible=VISIBLE[r["framing"]])
            for r in rows
            if r["framing"] in FACES
        ]
        for rows in (train, val)
    )
    if embedding is None or losses is None:
        embedding, losses = stage.train(
            config.steps, train_embedding, faces, codec.cpu(), config, features, scratch
        )
    tensors, about = embedding.tensors()
    save_checkpoint(out / "embedding.safetensors", tensors, config=about, seed=config.seed)
    stage.write_csv("loss", history_rows(losses))
    metrics = {f"retrieval_{k}": v for k, v in _retrieval(embedding, faces, stage.seed).items()}
    metrics |= {f"retrieval_{k}_val": v for k, v in _retrieval(embedding, val_faces, stage.seed).items()}
    metrics |= {f"codec_{k}_mm": v for k, v in errors.items()}
    metrics |= {f"codec_{k}_mm_val": v for k, v in val_errors.items()}
    stage.write_metrics(
        metrics | {"clips": len(train)},
        headline=(
            "codec_face_mm",
            "codec_hand_mm",
            "codec_body_mm",
            "retrieval_frame_val",
            "retrieval_patch_val",
        ),
    )
    _show(stage, embedding.cpu(), (val_faces or faces)[:4])


class FittedClips(Sequence[FittedClip]):
    """Fitted clips, each read from its store when it is asked for."""

    def __init__(self, data: Artifacts, rows: Sequence[Row]):
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, k: int) -> FittedClip:  # type: ignore[override]
        row = self.rows[k]
        arrays = self.data.trajectory(row)
        confidence = arrays.pop("confidence")
        stature = float(load_canonical(self.data.canonical_file(row)).stature)
        return FittedClip(Deformation.of(arrays), VISIBLE[row["framing"]], stature, confidence)


def _coded(stage: Stage, codec: MotionCodec, rows: Sequence[Row], path: Path) -> list[LatentClip]:
    """Fitted clips with their coefficients in the codec's bases in the place of latents, from a store at `path`."""
    data, features = Artifacts.of(stage), stage.params.audio.features
    with array_writer(path) as add:
        add_sounds(stage, data, features, [row["id"] for row in rows], add)
        for row, clip in zip(rows, FittedClips(data, rows), strict=True):
            sound = torch.from_numpy(features.prepare(data.audio(row["id"]))).to(stage.compute.device)
            deformation = clip.deformation.to(codec.head_to_body.device)
            add(f"audio/{row['id']}", features.hear(sound).cpu().numpy())
            with torch.no_grad():
                coefficients = codec.coefficients(deformation, clip.stature, clip.visible)
            add(f"x/{row['id']}", coefficients.cpu().numpy())
            add(f"confidence/{row['id']}", np.asarray(clip.confidence, np.float32))
    return [LatentClip(**latents_in(Store(path), row["id"]), visible=VISIBLE[row["framing"]]) for row in rows]


def encode_clips(
    data: Artifacts,
    codec: MotionCodec,
    layout: ParticleLayout,
    features: AudioFeatures,
    rows: Sequence[Row],
    add: Callable[[str, np.ndarray], None],
) -> dict[str, float | None]:
    """Sound and latents of fitted clips, one after the other into latents.zarr: audio/<clip> (4T,M), what the generator hears,
    x/<clip> (T,D), confidence/<clip> (T,). Returns the codec's error: mean distance in mm between the fitted particles and what
    comes back through the latents, every fifth frame, by region shown."""
    frames = {"face": (HEAD,), "hand": (WRIST_LEFT, WRIST_RIGHT), "body": (WORLD,)}
    sums: dict[str, list[float]] = {name: [] for name in frames}
    device = codec.head_to_body.device
    for row, clip in zip(rows, FittedClips(data, rows), strict=True):
        sound = torch.from_numpy(features.prepare(data.audio(row["id"]))).to(device)
        deformation, some = clip.deformation.to(device), clip.deformation[slice(None, None, 5)]
        with torch.no_grad():
            heard = features.hear(sound).cpu().numpy()
            x = codec.encode(deformation, clip.stature, clip.visible).cpu()
            again = codec.encode(some.to(device), clip.stature, clip.visible)
            back = codec.decode(again, clip.stature).mean_offset.cpu().numpy()
        add(f"audio/{row['id']}", heard)
        add(f"x/{row['id']}", x.numpy())
        add(f"confidence/{row['id']}", np.asarray(clip.confidence, np.float32))
        error = np.linalg.norm(back - some.mean_offset.numpy(), axis=-1)
        for name, ids in frames.items():
            if clip.visible[name]:
                sums[name].append(1000 * float(error[:, np.isin(layout.frame, ids)].mean()))
    return {name: float(np.mean(v)) if v else None for name, v in sums.items()}


def add_sounds(
    stage: Stage,
    data: Artifacts,
    features: AudioFeatures,
    trained: Sequence[str],
    add: Callable[[str, np.ndarray], None],
) -> None:
    """Into latents.zarr: log_mel/<clip> (4T,80) of every planned clip; takes/<clip> (V,4T,M) float16 of training clips, where any
    are made: each in other voices, rooms and noises, the babble of up to MOST_OTHERS clips among them."""
    for row in data.planned_clips():
        add(f"log_mel/{row['id']}", log_mel(torch.from_numpy(data.audio(row["id"]))).numpy())
    others = [data.audio(name) for name in trained[:MOST_OTHERS]]
    with one_thread():
        for name in trained:
            takes = features.hear_takes(
                data.audio(name), others, stage.rng("takes", name), stage.compute.device
            )
            if len(takes):
                add(f"takes/{name}", takes.half().numpy())


def _retrieval(embedding: Embedding, clips: list[LatentClip], seed: int) -> dict[str, float | None]:
    """One motion picks its sound out of ten (chance 0.1), by frame and by patch."""
    if len(clips) < 2:
        return {"frame": None, "patch": None}
    return dict(retrieval_accuracy(embedding, clips, choices=10, seed=seed))


def _show(stage: Stage, embedding: Embedding, clips: list[LatentClip]) -> None:
    """Cosine of every sound frame with every motion frame: a bright diagonal means that they know each other."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(1, max(1, len(clips)), figsize=(3.4 * max(1, len(clips)), 3.6), squeeze=False)
    with torch.no_grad():
        for clip, axes in zip(clips, grid.flat, strict=False):
            sound = embedding.embed_audio(torch.from_numpy(np.asarray(clip.audio, np.float32))[None])[0]
            motion = embedding.embed_motion(torch.from_numpy(np.asarray(clip.x, np.float32))[None])[0]
            axes.imshow((sound @ motion.T).numpy(), cmap="magma", vmin=-1, vmax=1)
            axes.set_xlabel("motion frame", fontsize=7)
            axes.set_ylabel("sound frame", fontsize=7)
            axes.tick_params(labelsize=6)
    write_figure(stage.reports / "contact_sheet.png", figure)


if __name__ == "__main__":
    run_stage("embed", main)
