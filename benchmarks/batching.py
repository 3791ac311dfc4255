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
from avatar_core.geometry.camera import Camera
from avatar_core.io.atomic import write_json
from avatar_core.particles.canonical import load_canonical
from avatar_core.particles.layout import make_layout
from avatar_core.speak.render import CHUNK, render_motion
from avatar_core.speak.student import load_student
from avatar_core.template import load_template
from stages.artifacts import Artifacts
from stages.common import Stage
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
    data, template = Artifacts.of(stage), load_template()
    layout = make_layout(stage.params.particles)
    row = next(r for r in data.fitted_clips("train") if r["framing"] == "face")
    canonical = load_canonical(data.canonical_file(row))
    frames, masks, tracks = (v[:FRAMES] for v in (data.frames(row), data.masks(row), data.tracks(row)))
    points = stage.params.perception.keypoint_detector.keypoints(frames)
    student = load_student(data.student_file)
    camera = Camera(*data.camera(row), frames.shape[2], frames.shape[1])
    x = generate(student.generator, data.audio(row["id"]), 0, student.sample)[:FRAMES]

    def fit(batch: int) -> None:
        config = replace(FitConfig(), batch=batch)
        fit_clip(frames, masks, tracks, *points, canonical, layout, template, "face", config)

    def speak(chunk: int) -> None:
        for _ in render_motion(student, canonical, layout, x, camera, "full", chunk):
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
