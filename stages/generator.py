"""Stage 7, generator: the diffusion transformer from sound to motion latents, and its face and hand refiner.

Writes `generator.safetensors`; the numbers compare generated with fitted lips on the val people's close clips.
"""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import numpy as np
import torch

from avatar_core.clock import FPS
from avatar_core.embed.audio_encoder import AudioEncoder
from avatar_core.embed.batches import LatentClip
from avatar_core.embed.codec import MotionCodec
from avatar_core.generator.calibrate import calibrate_motion
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import generate
from avatar_core.generator.train import train_generator
from avatar_core.io.checkpoints import save_checkpoint
from avatar_core.io.images import write_figure
from avatar_core.particles.framing import VISIBLE
from avatar_core.training.loop import history_rows
from stages.artifacts import Artifacts, Row
from stages.common import Stage, run_stage


def main(stage: Stage) -> None:
    """Train the generator on the fitted clips."""
    params, audio = stage.params.generator, stage.params.audio
    data = Artifacts.of(stage)
    codec = MotionCodec.from_tensors(*data.checkpoint("embed", "codec"))
    rows, unheard = data.fitted_clips("train"), data.fitted_clips("val")
    clips, others = (
        [LatentClip(**data.latents(r["id"]), visible=VISIBLE[r["framing"]]) for r in some]
        for some in (rows, unheard)
    )
    model, encoder = params.model.sized(codec, audio), None
    if data.has_checkpoint("embed", "audio_encoder"):  # embed.aligned
        encoder = AudioEncoder.from_tensors(*data.checkpoint("embed", "audio_encoder"))
        model = replace(model, aligned=encoder.config)
    config = replace(params.train, seed=stage.entropy("train") % 2**31)
    out = stage.fresh(stage.out)
    generator, curve = stage.train(
        config.steps,
        train_generator,
        clips,
        codec,
        config,
        model,
        audio=audio.features,
        checkpoint_dir=stage.scratch(stage.data / "fit", stage.data / "embed"),
        encoder=encoder,
    )
    calibrate_motion(generator, clips, others, codec, stage.params.sample, config.seed)
    tensors, described = generator.tensors()
    save_checkpoint(out / "generator.safetensors", tensors, config=described, seed=config.seed)
    stage.write_csv("loss", history_rows(curve))
    checked = unheard or rows[:3]
    metrics = compare_lips(stage, generator, codec, [r for r in checked if r["framing"] == "face"])
    stage.write_metrics(
        {**metrics, "parameters": sum(p.numel() for p in generator.parameters()), "clips": len(clips)},
        headline=("lip_correlation_to_fit", "parameters"),
    )


def compare_lips(
    stage: Stage, generator: Generator, codec: MotionCodec, rows: list[Row]
) -> dict[str, float | None]:
    """Lip aperture generated from the sound against the fitted one; draws both into the contact sheet."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    data = Artifacts.of(stage)
    figure, grid = plt.subplots(max(1, len(rows)), 1, figsize=(11, 1.9 * max(1, len(rows))), squeeze=False)
    correlations = []
    for row, axes in zip(rows, grid.flat, strict=False):
        fitted = codec.aperture(torch.from_numpy(data.latents(row["id"])["x"][:])).detach().numpy()
        made = generate(generator, data.audio(row["id"]), stage.seed, stage.params.sample)
        made = codec.aperture(made.cpu())
        made = made.detach().numpy()[: len(fitted)]
        correlations.append(float(np.corrcoef(fitted, made)[0, 1]))
        seconds = np.arange(len(fitted)) / FPS
        axes.plot(seconds, 1000 * fitted, color="#888", label="fitted to the teacher")
        axes.plot(seconds, 1000 * made, color="#c33", label="generated from sound")
        axes.set_title(f"{row['id']}: lip aperture in mm, correlation {correlations[-1]:.2f}", fontsize=8)
    grid.flat[0].legend(fontsize=7)
    write_figure(stage.reports / "contact_sheet.png", figure)
    finite = [c for c in correlations if np.isfinite(c)]
    return {"lip_correlation_to_fit": float(np.mean(finite)) if finite else None}


if __name__ == "__main__":
    run_stage("generator", main)
