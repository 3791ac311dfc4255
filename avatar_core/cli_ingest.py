"""The command `avatar ingest`: a folder of talking videos becomes clips for the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from avatar_core.errors import UserError

if TYPE_CHECKING:
    from avatar_core.ingest.ingest import Ingested


def ingest(
    folder: Annotated[Path, typer.Argument(help="Talking videos, of any name, length, rate and size.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder to write: portraits, recordings, videos, report.")
    ] = Path("data/ingested"),
    max_seconds: Annotated[
        float, typer.Option(min=1, max=50, help="Longest clip; longer talk is cut at pauses.")
    ] = 4.0,
    size: Annotated[int, typer.Option(min=128, max=2048, help="Largest side of a clip in px.")] = 512,
) -> None:
    """Take recorded videos as teachers: find who talks, cut, check, say what was refused and why."""
    import torch

    from avatar_core.ingest.config import IngestConfig
    from avatar_core.ingest.ingest import ingest as take
    from avatar_core.perception.holistic.video import HolisticFaces

    torch.set_num_threads(1)  # the nets are small: more threads only wait for each other
    console, errors = Console(), Console(stderr=True)
    config = IngestConfig(max_seconds=max_seconds, size=size)
    with errors.status("looking at the videos ...") as status:

        def show(done: int, total: int, what: str) -> None:
            status.update(
                f"file {done + 1} of {total}" if what == "files" else f"watching: {done / 25:.0f} s"
            )

        result = take(folder, out, HolisticFaces(), config, show)
    for file in result.files:
        refused = [p.reason for p in file.pieces if p.reason]
        taken = sum(p.seconds for p in file.taken)
        why = file.refused or "; ".join(dict.fromkeys(refused))
        console.print(
            f"{file.name}: {taken:.1f} s taken{f'; refused: {why}' if why else ''}",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"{out}: report.md, report.json, contact_sheet.png", markup=False, soft_wrap=True)
    if not result.clips:
        raise UserError(
            f"{folder}: expected a video of one person talking to the camera, found none; {out / 'report.md'} says why"
        )
    people = "1 person" if len(result.people) == 1 else f"{len(result.people)} people"
    console.print(
        f"{result.clips} clips of {people}. In params.yaml set:\n\n{result.params}",
        markup=False,
        soft_wrap=True,
    )
    console.print(f"then run {_goal(result)}", markup=False, soft_wrap=True)


def _goal(result: Ingested) -> str:
    """How far the pipeline comes with these clips."""
    names = [name for file in result.files for clips in file.clips.values() for name in clips]
    if all("-face-" in name for name in names):
        return (
            "`dvc repro fit`. No clip shows arms: for a student (`dvc repro embed` and what follows), videos that show "
            "people to the waist are needed too."
        )
    return (
        "`dvc repro`."
        if len(result.people) > 1
        else "`dvc repro distill`. To judge the student, a second person is needed."
    )
