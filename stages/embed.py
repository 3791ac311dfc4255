"""Stage 6, embed: the motion codec (E_X and its decoder) and the contrastive audio-particle embedding.

Writes `codec.safetensors` (dG of a frame <-> latents [body | face | hand]) and `embedding.safetensors` (sound and motion in one
space: frame-level and patch-level InfoNCE), with retrieval accuracies on the val person where there is one.
"""

from __future__ import annotations

import matplotlib
import numpy as np
import torch

from avatar_core.audio import augment
from avatar_core.embed.batches import MotionClip
from avatar_core.embed.codec import CodecConfig, MotionCodec
from avatar_core.embed.codec_fit import fit_codec
from avatar_core.embed.contrastive import EmbedConfig, Embedding, retrieval_accuracy, train_embedding
from avatar_core.io.checkpoints import load_checkpoint, save_checkpoint
from avatar_core.io.images import write_png
from stages.clips import FittedMotion, fitted_rows, layout_of, loss_rows, motion_clips
from stages.common import Stage, run_stage


def main(stage: Stage) -> None:
    """Fit the codec, then train the embedding."""
    params = stage.params.embed
    layout = layout_of(stage)
    motion = FittedMotion(stage, fitted_rows(stage, "train"))
    codec = fit_codec(
        motion,
        layout,
        CodecConfig(
            body_dims=params.body,
            face_dims=params.face,
            hand_dims=params.hand,
            residual_steps=params.decoder_steps,
            seed=stage.entropy("codec") % 2**31,
        ),
    )
    out = stage.fresh(stage.out)
    tensors, about = codec.tensors()
    save_checkpoint(out / "codec.safetensors", tensors, config=about, seed=stage.seed)

    clips = motion_clips(stage, codec, motion)
    faces = [c for c in clips if c.valid["face"]]
    config = EmbedConfig(
        dims=codec.dims,
        patch=params.patch,
        steps=params.contrastive_steps,
        seed=stage.entropy("embedding") % 2**31,
    )
    with stage.progress(config.steps) as bar:
        embedding, losses = train_embedding(
            faces, codec, config, augment, stage.scratch(stage.data / "fit"), bar.reach
        )
    tensors, about = embedding.tensors()
    save_checkpoint(out / "embedding.safetensors", tensors, config=about, seed=config.seed)
    stage.write_csv("loss", loss_rows(losses))
    held_out = FittedMotion(stage, fitted_rows(stage, "val"))
    val_clips = [c for c in motion_clips(stage, codec, held_out) if c.valid["face"]]
    metrics = {f"retrieval_{k}": v for k, v in _retrieval(embedding, faces, stage.seed).items()}
    metrics |= {f"retrieval_{k}_val": v for k, v in _retrieval(embedding, val_clips, stage.seed).items()}
    metrics |= {f"codec_{k}_mm": v for k, v in codec_errors(codec, motion).items()}
    metrics |= {f"codec_{k}_mm_val": v for k, v in codec_errors(codec, held_out).items()}
    stage.write_metrics(metrics | {"clips": len(clips)})
    _show(stage, embedding, (val_clips or faces)[:4])


def load_codec(stage: Stage) -> MotionCodec:
    """The codec that this stage wrote."""
    tensors, sidecar = load_checkpoint(
        stage.data / "embed" / "codec.safetensors", hint="run `dvc repro embed`"
    )
    return MotionCodec.from_tensors(tensors, sidecar["config"])


def _retrieval(embedding: Embedding, clips: list[MotionClip], seed: int) -> dict[str, float | None]:
    """One motion picks its sound out of ten (chance 0.1), by frame and by patch."""
    if len(clips) < 2:
        return {"frame": None, "patch": None}
    return dict(retrieval_accuracy(embedding, clips, choices=10, seed=seed))


def codec_errors(codec: MotionCodec, motion: FittedMotion) -> dict[str, float | None]:
    """Mean distance in mm between fitted particles and what comes back through the latents, by region shown."""
    frames = {"face": (1,), "hand": (2, 3), "body": (0,)}
    layout = layout_of(motion.stage)
    sums: dict[str, list[float]] = {name: [] for name in frames}
    with torch.no_grad():
        for clip in motion:
            some = clip.deformation[slice(None, None, 5)]
            back = codec.decode(
                codec.encode(some, clip.stature, clip.valid), clip.stature
            ).mean_offset.numpy()
            error = np.linalg.norm(back - np.asarray(some.mean_offset), axis=-1)
            for name, ids in frames.items():
                if clip.valid[name]:
                    sums[name].append(1000 * float(error[:, np.isin(layout.frame, ids)].mean()))
    return {name: float(np.mean(v)) if v else None for name, v in sums.items()}


def _show(stage: Stage, embedding: Embedding, clips: list[MotionClip]) -> None:
    """Cosine of every sound frame with every motion frame: a bright diagonal means that they know each other."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(1, max(1, len(clips)), figsize=(3.4 * max(1, len(clips)), 3.6), squeeze=False)
    with torch.no_grad():
        for clip, axes in zip(clips, grid.flat, strict=False):
            sound = embedding.embed_audio(torch.from_numpy(np.asarray(clip.log_mel, np.float32))[None])[0]
            motion = embedding.embed_motion(torch.from_numpy(np.asarray(clip.x, np.float32))[None])[0]
            axes.imshow((sound @ motion.T).numpy(), cmap="magma", vmin=-1, vmax=1)
            axes.set_xlabel("motion frame", fontsize=7)
            axes.set_ylabel("sound frame", fontsize=7)
            axes.tick_params(labelsize=6)
    figure.tight_layout()
    figure.canvas.draw()
    write_png(stage.reports / "contact_sheet.png", np.asarray(figure.canvas.buffer_rgba())[..., :3])  # type: ignore[attr-defined]
    plt.close(figure)


if __name__ == "__main__":
    run_stage("embed", main)
