"""This checkout against another one on the CPU: `python -m benchmarks.versions --old FOLDER`.

Fit and the trainings of both in turn, in two processes that wait for each other, on one thread and on made-up clips. What counts is
the processor's time, which other programs on the machine change less than that of the clock; ratios are those of neighbouring
runs. Of a training also the steps alone: a real one has hundreds to what comes before them.
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
from avatar_core.distill import train as distill
from avatar_core.distill.config import DistillConfig
from avatar_core.embed import contrastive
from avatar_core.embed.batches import LatentClip
from avatar_core.embed.codec import DECODED, FRAMES_OF, MotionCodec
from avatar_core.embed.config import CodecConfig, ContrastiveConfig
from avatar_core.fit.config import FitConfig, SkeletonTrackConfig
from avatar_core.fit.deform import fit_clip
from avatar_core.fit.nodes import make_nodes
from avatar_core.generator import train as generator
from avatar_core.generator.config import GeneratorConfig, MotionLossConfig, TrainConfig
from avatar_core.generator.model import Generator
from avatar_core.geometry.camera import look_at
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.layout import make_layout
from avatar_core.score import train as score
from avatar_core.score.clips import ScoreClip
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from avatar_core.template import load_template
from tests.fit.clip_scene import BUDGETS, scene

s, template, rng = scene(), load_template(), np.random.default_rng(0)
layout = make_layout(ParticleBudgets(**BUDGETS), template)
nodes = make_nodes(template, layout)
index = {r: np.flatnonzero(np.isin(layout.frame, FRAMES_OF[r])) for r in DECODED}
with torch.random.fork_rng():
    torch.manual_seed(0)
    sizes = {r: len(own) for r, own in index.items()}
    codec = MotionCodec(CodecConfig(), len(layout.frame), sizes, 10, 40).eval()
    for r, own in index.items():
        codec.region(r).index.copy_(torch.from_numpy(own))
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
camera = look_at((0, -2.5, 1.5), (0, 0, 1.5), 17.0, 32, 32)
seen = distill.View(camera.viewmat, np.repeat(camera.K[None], 100, 0), rng.integers(0, 255, (100, 32, 32, 3), np.uint8),
                    np.zeros(3, np.float32), None, True)
shown = [distill.DistillClip(clip, "A", seen, clip.audio) for clip in clips]


def distilled():
    torch.manual_seed(0)
    config = DistillConfig(steps=3, simple=MotionLossConfig(batch=8))
    own = MotionCodec.from_tensors(*codec.tensors())
    distill.train_student(shown, {"A": s.canonical}, layout, Generator(model), own, ScoreNetwork(ScoreConfig()), config)


in_steps = [0.0]


def timed(module):
    loop = module.run_loop

    def run(*given, **named):
        start = time.process_time()
        found = loop(*given, **named)
        in_steps[0] = time.process_time() - start
        return found

    module.run_loop = run


for module in (score, contrastive, generator, distill):
    timed(module)
DO = {
    "fit": lambda: fit_clip(s.frames, s.masks, s.tracks, s.xy, s.confidence, s.canonical, layout, template, "face",
                            FitConfig(iterations=4, batch=4, track=SkeletonTrackConfig(iterations=20)), nodes=nodes),
    "score": lambda: score.train_score(mouths, ScoreConfig(steps=3)),
    "embed": lambda: contrastive.train_embedding(clips, codec, ContrastiveConfig(dims=codec.dims, mels=80, steps=3)),
    "generator": lambda: generator.train_generator(clips, codec, TrainConfig(steps=3, batch=8), model),
    "distill": distilled,
}
for name in sys.stdin:
    start = time.process_time()
    DO[name.strip()]()
    print("took", time.process_time() - start, in_steps[0], flush=True)
"""
STAGES = ("fit", "score", "embed", "generator", "distill")


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

    def seconds(self, stage: str) -> tuple[float, float]:
        """Of all, and of the training's steps (of no meaning for fit)."""
        assert self.process.stdin and self.process.stdout
        print(stage, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("took"):
                _, whole, steps = line.split()
                return float(whole), float(steps)
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
        for k, name in enumerate((stage, f"{stage}, steps")[: 1 if stage == "fit" else 2]):
            before, now = pairs[:, 0, k], pairs[:, 1, k]
            ratio = now / before
            print(
                f"| {name} | {np.median(before):.2f} | {np.median(now):.2f} | {np.median(ratio):.2f} | "
                f"{ratio.min():.2f} to {ratio.max():.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
