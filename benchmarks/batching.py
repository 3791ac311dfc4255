"""What rendering several frames in one call does for fitting and for speaking: `python -m benchmarks.batching [--json OUT]`.

Needs a finished run (`dvc repro`): it fits the first training clip again and renders the first test person, one frame a
call and a batch of frames a call in turn, and compares wall time. Per case: one_ms, batched_ms (a frame), ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from avatar_core.fit.config import FitConfig
from avatar_core.fit.deform import fit_clip
from avatar_core.generator.sampler import generate
from avatar_core.io.atomic import write_json
from avatar_core.perception import load_critics
from avatar_core.speak.speak import CHUNK, render_motion
from avatar_core.speak.student import load_student
from avatar_core.template import load_template
from stages.clips import FittedMotion, clip_audio, clip_aux, clip_frames, fitted_rows, layout_of
from stages.common import Stage
from stages.distill import fitted_camera
from stages.params import load_params

FRAMES = 48


def compare(
    one: Callable[[], object], batched: Callable[[], object], frames: int, rounds: int
) -> dict[str, float]:
    """Medians of alternating runs, milliseconds a frame."""
    times: dict[str, list[float]] = {"one_ms": [], "batched_ms": []}
    for _ in range(rounds):
        for name, run in (("one_ms", one), ("batched_ms", batched)):
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1e3 / frames)
    row = {name: statistics.median(values) for name, values in times.items()}
    return row | {"ratio": row["one_ms"] / row["batched_ms"]}


def main() -> None:
    """Time both cases and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    stage = Stage("evaluate", None, load_params("params.yaml"))
    layout, template = layout_of(stage), load_template()
    rows = [row for row in fitted_rows(stage, "train") if row["framing"] == "face"][:1]
    motion = FittedMotion(stage, rows)
    canonical = motion.canonical(rows[0])
    frames = clip_frames(stage, rows[0])[:FRAMES]
    masks, tracks = (clip_aux(stage, rows[0], kind)[:FRAMES] for kind in ("masks", "tracks"))
    points = load_critics().keypoints(frames)
    student = load_student(stage.data / "distill" / "student.safetensors")
    camera = fitted_camera(stage, rows[0], frames.shape[1:3])
    x = generate(student.generator, clip_audio(stage, rows[0]["id"]), 0, student.sample)[:FRAMES]

    def fit(batch: int) -> None:
        config = replace(FitConfig(), batch=batch)
        fit_clip(frames, masks, tracks, *points, canonical, layout, template, "face", config)

    def speak(chunk: int) -> None:
        for _ in render_motion(student, canonical, layout, x, camera, chunk):
            pass

    batch = stage.params.fit.batch
    table = {
        f"fit, {batch} frames a call": compare(
            lambda: fit(1), lambda: fit(batch), len(frames), arguments.rounds
        ),
        f"speak, {CHUNK} frames a call": compare(
            lambda: speak(1), lambda: speak(CHUNK), len(x), arguments.rounds
        ),
    }
    for name, row in table.items():
        print(f"{name:24} {row['one_ms']:7.1f} -> {row['batched_ms']:7.1f} ms a frame, {row['ratio']:.2f}x")
    if arguments.json:
        write_json(arguments.json, {"threads": torch.get_num_threads(), "cases": table})


if __name__ == "__main__":
    main()
