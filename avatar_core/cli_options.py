"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avatar_core.cli_terminal import err_console

if TYPE_CHECKING:
    from avatar_core.device import Compute

PORTRAIT_HELP = "A picture of a person whose face is seen, head and shoulders or more; of several, the largest face counts."
Portrait = Annotated[Path, typer.Option("--portrait", "-p", help=PORTRAIT_HELP)]
Portraits = Annotated[
    list[Path],
    typer.Option("--portrait", "-p", help=f"{PORTRAIT_HELP} Given several times: as many avatars."),
]
OptionalPortrait = Annotated[Path | None, typer.Option("--portrait", "-p", help=PORTRAIT_HELP)]
Audio = Annotated[
    Path | None,
    typer.Option("--audio", "-a", help="A recording: WAV, FLAC, MP3, OGG, M4A, or a video's sound."),
]
Text = Annotated[str | None, typer.Option("--text", "-t", help="A sentence to speak, instead of --audio.")]
Language = Annotated[
    str, typer.Option("--language", "-l", help="Language of --text; `avatar voices` lists them.")
]
Voice = Annotated[str | None, typer.Option("--voice", help="Voice for --text; `avatar voices` lists them.")]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="The trained student. Default: data/distill/student.safetensors of the run in this folder; without one, "
        "the student that comes with the program.",
    ),
]
PersonNumber = Annotated[
    int, typer.Option("--person", min=1, help="Which face of several in the portrait: 1 is the largest.")
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, help="Another seed gives another gesturing, the same lips.")
]
Articulation = Annotated[
    float,
    typer.Option(
        "--articulation",
        min=0.5,
        max=3.0,
        help="How far the mouth opens: 1 as the student learnt it, which is less than two real talkers did.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, cuda or cuda:N; auto: a GPU where there is one. Another device gives slightly other numbers."
    ),
]


def student_file(model: Path | None) -> Path:
    """What `--model` stands for; said in a line where it is the student that comes with the program."""
    from avatar_core.speak.maker import SHIPPED, TRAINED

    if model is not None:
        return model
    if TRAINED.is_file():
        return TRAINED
    err_console.print(
        f"no {TRAINED} here: taking the student that comes with the program", markup=False, soft_wrap=True
    )
    return SHIPPED


def compute_of(device: str) -> Compute:
    """What `--device` stands for, said in a line where it is auto. Raises UserError where it cannot be had."""
    from avatar_core.device import resolve

    return resolve(
        device, renders=True, say=lambda line: err_console.print(line, markup=False, soft_wrap=True)
    )
