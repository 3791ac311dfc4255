"""Stage 3b, score: the teacher's score network for VSD, an audio-conditioned video diffusion model.

The embedded one trains on windows round the mouth of the training clips' faces; a published one is not trained, and sees all of
every clip. Held-out numbers come from the val person where there is one. Writes `score.safetensors` and, for distill,
`windows.zarr` (where of a clip the score teacher looks); shows sampled clips under the teacher's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from avatar_core.clock import MEL_PER_FRAME
from avatar_core.errors import UserError
from avatar_core.io.checkpoints import save_checkpoint
from avatar_core.io.images import contact_sheet
from avatar_core.io.rows import Rows
from avatar_core.io.store import Store, write_arrays
from avatar_core.models.card import Published, start
from avatar_core.perception.crop import Window, whole_window, write_windows
from avatar_core.perception.instruments import load_critics
from avatar_core.perception.mouth import mouth_window
from avatar_core.score import ScoreTeacher
from avatar_core.score.clips import ScoreClip, pad_mel, to_signed
from avatar_core.training.loop import history_rows, one_thread
from stages.artifacts import Artifacts, Row
from stages.common import Stage, run_stage


@dataclass(frozen=True)
class ClipJob:
    stage: Stage
    row: Row
    scratch: Path


def main(stage: Stage) -> None:
    """Train the score teacher on what it sees of the training clips."""
    backend = stage.params.score.teacher
    if isinstance(backend, Published):
        start(f"score.{stage.params.score.backend}", backend, stage.compute)
    data = Artifacts.of(stage)
    rows = [r for r in data.teacher_clips("train", "val") if not backend.mouth or r["framing"] == "face"]
    train = [r for r in rows if r["split"] == "train"]
    held_out = [r for r in rows if r["split"] == "val"] or train[-1:]
    seed = stage.entropy("train") % 2**31
    scratch = stage.scratch(stage.data / "speech", *stage.shards("teacher"))
    windows = stage.map(_look, [ClipJob(stage, row, scratch) for row in rows])
    found = {row["id"]: window for row, window in zip(rows, windows, strict=True)}
    clips, tests = ([_clip(row, scratch) for row in part] for part in (train, held_out))
    with one_thread():  # on two, a busy machine was seen to change the last bits
        model, losses = stage.train(1, backend.train, clips, seed, scratch)
    out = stage.fresh(stage.out)
    write_windows(out / "windows.zarr", found)
    tensors, described = model.tensors()
    save_checkpoint(out / "score.safetensors", tensors, config=described, seed=seed)
    with one_thread():
        measured = {f"{k}_train": v for k, v in backend.evaluate(model, clips, seed=stage.seed).items()}
        measured |= {f"{k}_held_out": v for k, v in backend.evaluate(model, tests, seed=stage.seed).items()}
        _show(stage, model, tests[:3], [row["id"] for row in held_out[:3]])
    stage.write_metrics(
        {**measured, "parameters": sum(p.numel() for p in model.parameters())},
        headline=("denoise_matched_held_out", "denoise_mismatched_held_out"),
    )
    stage.write_csv("loss", history_rows(losses))


def _look(job: ClipJob) -> Window:
    """Where the score teacher looks. The clip so cut, at the network's size, and its sound wait in the scratch folder."""
    clip, backend = job.row["id"], job.stage.params.score.teacher
    path = job.scratch / f"{clip}.zarr"
    if not path.is_dir():
        data = Artifacts.of(job.stage)
        frames = data.frames(job.row)
        try:
            shape = frames.shape[:3]
            window = mouth_window(frames, load_critics()) if backend.mouth else whole_window(shape)
        except UserError as error:
            raise UserError(f"clip {clip}: {error}") from None
        write_arrays(
            path,
            {
                "window": window.rows(),
                "frames": window.cut(frames, backend.size),
                "log_mel": backend.hear(torch.from_numpy(data.audio(clip))).numpy(),
            },
        )
    return Window.of(Store(path).read("window"))


def _clip(row: Row, scratch: Path) -> ScoreClip:
    store = Store(scratch / f"{row['id']}.zarr")
    return ScoreClip(Rows(store, "frames"), Rows(store, "log_mel"))


def _show(stage: Stage, model: ScoreTeacher, clips: list[ScoreClip], names: list[str]) -> None:
    """The teacher's frames, and below them what the score network samples for the same sound and reference."""
    count, images, captions, device = model.frames, [], [], next(model.parameters()).device
    for name, clip in zip(names, clips, strict=True):
        start = max(0, len(clip.frames) // 2 - count // 2)
        window = clip.frames[start : start + count]
        mel = pad_mel(clip.log_mel)[None, MEL_PER_FRAME * start : MEL_PER_FRAME * (start + count + 8)]
        first = model.reference_frame(start)
        reference = to_signed(torch.from_numpy(clip.frames[first : first + 1]))
        sampled = model.sample(mel.to(device), reference.to(device), seed=stage.seed)[0].cpu()
        images += list(window) + list(((sampled.float() + 1) / 2).movedim(1, -1).numpy())
        captions += [f"teacher {name[-12:]}"] * len(window) + ["sampled"] * len(sampled)
    sheet = stage.reports / "contact_sheet.png"
    contact_sheet(
        sheet, [np.asarray(i) for i in images], captions, columns=count, cell=128, title="score teacher"
    )


if __name__ == "__main__":
    run_stage("score", main)
