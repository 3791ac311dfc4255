"""The part of evaluation that lets published systems make the test clips, or finds the videos that they made: rows of the table.

A baseline that params.yaml names without saying where its videos or its program are: a row that says `not run`, and how to run it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from avatar_core.errors import UserError
from avatar_core.teacher import ClipRequest
from avatar_core.teacher.baselines import Baseline
from avatar_core.teacher.folder import FolderTeacher
from stages.artifacts import Artifacts, Row
from stages.common import Stage
from stages.requests import clip_request


def not_run(baselines: Mapping[str, Baseline]) -> dict[str, str]:
    """By name, how to run what has no section."""
    return {name: f"not run: {one.how()}" for name, one in baselines.items() if not one.chosen}


def check_baselines(stage: Stage, rows: Sequence[Row]) -> None:
    """Raise UserError for the first thing that keeps a baseline with a section from running, before any work."""
    for one in stage.params.evaluate.compared.values():
        if not one.chosen:
            continue
        for line in one.lacking():
            raise UserError(line)
        for row in _done_by(one, rows) if one.path else ():
            if not (video := Path(one.path, f"{row['id']}.mp4")).is_file():
                raise UserError(f"{video}: expected {one.card.id}'s video of this test clip, found none")


def baseline_videos(stage: Stage, rows: Sequence[Row]) -> dict[str, Path]:
    """Let the chosen baselines make their clips, those left that a killed run has not made. Name -> folder of `<clip>.mp4`.

    Raises UserError.
    """
    chosen = {name: one for name, one in stage.params.evaluate.compared.items() if one.chosen}
    folders = {name: Path(one.path) for name, one in chosen.items() if one.path}
    programs = {name: one for name, one in chosen.items() if not one.path}
    if not programs:
        return folders
    data = Artifacts.of(stage)
    people = {person.id: person for person in data.people()}
    scratch = stage.scratch(stage.data / "identities", stage.data / "speech", stage.data / "teacher")
    for name, program in programs.items():
        folders[name] = scratch / name
        folders[name].mkdir(exist_ok=True)
        todo = [
            clip_request(
                data, row, people[row["identity"]], size=0, driving=data.video_file(row),
                seed=stage.entropy("baseline", name, row["id"]) % 2**31,
            )
            for row in _done_by(program, rows)
            if not (folders[name] / f"{row['id']}.mp4").is_file()
        ]  # fmt: skip
        if todo:
            with stage.progress(len(todo), f"clip of {name}") as bar:
                program.videos(todo, folders[name], stage.compute, bar.advance)
    return folders


def baseline_frames(folder: Path, request: ClipRequest) -> np.ndarray | None:
    """A baseline's frames (T,H,W,3) uint8 of a clip, no larger than `request.size`; None where it does not do such clips."""
    if not (folder / f"{request.name}.mp4").is_file():
        return None
    return FolderTeacher(str(folder)).make(request).frames


def _done_by(baseline: Baseline, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["framing"] in baseline.framings]
