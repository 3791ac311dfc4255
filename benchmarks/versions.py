"""This checkout against another one on the CPU: `python -m benchmarks.versions --old FOLDER`.

Fit, score, embed and generator of both in turn, in two processes that wait for each other, on one thread and on made-up clips. What
counts is the processor's time, which other programs on the machine change less than that of the clock; ratios are those of
neighbouring runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

WORKER = """
import sys, time
from dataclasses import replace
import numpy as np, torch
torch.set_num_threads(1)
from avatar_core.embed.batches import LatentClip
from avatar_core.embed.codec import MotionCodec
from avatar_core.embed.config import CodecConfig, ContrastiveConfig
from avatar_core.embed.contrastive import train_embedding
from avatar_core.fit.config import FitConfig, SkeletonTrackConfig
from avatar_core.fit.deform import fit_clip
from avatar_core.fit.nodes import make_nodes
from avatar_core.generator.config import GeneratorConfig, TrainConfig
from avatar_core.generator.train import train_generator
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.layout import make_layout
from avatar_core.score.clips import ScoreClip
from avatar_core.score.config import ScoreConfig
from avatar_core.score.train import train_score
from avatar_core.template import load_template
from tests.fit.clip_scene import BUDGETS, scene

s, template, rng = scene(), load_template(), np.random.default_rng(0)
layout = make_layout(ParticleBudgets(**BUDGETS), template)
nodes = make_nodes(template, layout)
sizes = {"body": 200, "face": 150, "hand": 80}
with torch.random.fork_rng():
    torch.manual_seed(0)
    codec = MotionCodec(CodecConfig(), 430, sizes, 10, 40).eval()
clips = [
    LatentClip(rng.normal(size=(400, 80)).astype(np.float32), rng.normal(size=(100, codec.dims)).astype(np.float32),
               dict.fromkeys(("head", "body", "face", "hand"), True))
    for _ in range(4)
]
mouths = [ScoreClip(rng.integers(0, 255, (60, 32, 32, 3), np.uint8), rng.normal(size=(240, 80)).astype(np.float32))
          for _ in range(4)]
model = GeneratorConfig()
model = replace(model, dit=replace(model.dit, dims=codec.dims, mels=80), body_dims=codec.config.body_dims,
                face_dims=codec.config.face_dims)
DO = {
    "fit": lambda: fit_clip(s.frames, s.masks, s.tracks, s.xy, s.confidence, s.canonical, layout, template, "face",
                            FitConfig(iterations=4, batch=4, track=SkeletonTrackConfig(iterations=20)), nodes=nodes),
    "score": lambda: train_score(mouths, ScoreConfig(steps=3)),
    "embed": lambda: train_embedding(clips, codec, ContrastiveConfig(dims=codec.dims, mels=80, steps=3)),
    "generator": lambda: train_generator(clips, codec, TrainConfig(steps=2, batch=8), model),
}
for name in sys.stdin:
    start = time.process_time()
    DO[name.strip()]()
    print("took", time.process_time() - start, flush=True)
"""
STAGES = ("fit", "score", "embed", "generator")


class Checkout:
    """A process of a checkout's code that runs a stage's work when told to."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, stage: str) -> float:
        assert self.process.stdin and self.process.stdout
        print(stage, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("took"):
                return float(line.split()[1])
        raise RuntimeError(f"{stage}: its process ended with {self.process.wait()}")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=__doc__)
    parser.add_argument("--old", type=Path, required=True, help="another checkout, its renderer built")
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args()
    old, new = Checkout(arguments.old.resolve()), Checkout(Path.cwd())
    print("| stage | old, s | new, s | new / old: median | lowest to highest |\n|---|---|---|---|---|")
    for stage in arguments.stages:
        for checkout in (old, new):
            checkout.seconds(stage)  # what is made once
        pairs = np.array([(old.seconds(stage), new.seconds(stage)) for _ in range(arguments.times)])
        ratio, (before, now) = pairs[:, 1] / pairs[:, 0], np.median(pairs, 0)
        print(
            f"| `{stage}` | {before:.2f} | {now:.2f} | {np.median(ratio):.2f} | {ratio.min():.2f} to {ratio.max():.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
