"""`python -m stages`: inspect, profile, doctor and models, for those who work on the pipeline (also `avatar inspect`, ...)."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from avatar_core.errors import UserError
from stages.inspect import inspect_all, inspect_stage
from stages.listing import PAGE, Wanted
from stages.params import load_params, parse_params
from stages.profiles import NAMES, active_profile, profile_values, use_profile

app = typer.Typer(
    name="python -m stages",
    help="Look at what the pipeline made, choose what it runs with.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
profile_app = typer.Typer(
    help="Which parameters the pipeline runs with: smoke, laptop, studio-lite, studio, cluster.",
    no_args_is_help=True,
)
app.add_typer(profile_app, name="profile")
models_app = typer.Typer(
    help="Published models: which there are, and whether their files are whole.", no_args_is_help=True
)
app.add_typer(models_app, name="models")
console = Console()


@app.command()
def inspect(
    stage: Annotated[
        str | None,
        typer.Argument(
            help="identities, speech, teacher, score, fit, embed, generator, distill, evaluate or report. "
            "None: the metrics of all."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="A clip or identity of that stage.", metavar="[ID]")
    ] = None,
    details: Annotated[bool, typer.Option("--details", help="All metrics, not the headline alone.")] = False,
    split: Annotated[str, typer.Option(help="Only clips of train, val or test.")] = "",
    framing: Annotated[str, typer.Option(help="Only face, waist_up or full_body.")] = "",
    language: Annotated[str, typer.Option(help="Only clips in a language: en, de, ...")] = "",
    status: Annotated[str, typer.Option(help="Only ok or rejected.")] = "",
    page: Annotated[int, typer.Option(help=f"Which {PAGE} clips to list.")] = 1,
    everything: Annotated[bool, typer.Option("--all", help="List all clips.")] = False,
    open_files: Annotated[
        bool, typer.Option("--open/--no-open", help="Open its pictures and videos.")
    ] = True,
) -> None:
    """Print and open what a stage of the pipeline made."""
    if stage is None:
        inspect_all(console)
        return
    wanted = Wanted(split=split, framing=framing, language=language, status=status)
    worth_seeing = inspect_stage(stage, name, console, wanted, None if everything else page, details)
    for path in worth_seeing:
        console.print(Text(str(path), "bold"), soft_wrap=True)
    if open_files and sys.stdout.isatty():
        for path in worth_seeing[:4]:
            webbrowser.open(path.resolve().as_uri())


@profile_app.command("show")
def profile_show() -> None:
    """Say which profile params.yaml holds, and what differs from it."""
    name, differences = active_profile()
    console.print(f"profile: [bold]{name or 'your own'}[/bold]   (there are: {', '.join(NAMES)})")
    for key, (wanted, found) in differences.items():
        console.print(f"  {key}: {found}   (nearest profile: {wanted})")


@profile_app.command("use")
def profile_use(
    name: Annotated[str, typer.Argument(help="smoke, laptop, studio-lite, studio or cluster")],
) -> None:
    """Write a profile into params.yaml; `dvc repro` then makes what has changed."""
    stale = use_profile(name)
    console.print(f"params.yaml: profile {name}. Next: dvc repro")
    if stale:
        console.print(
            f"removed {len(stale)} outputs of shards that this profile does not have (DVC's cache keeps them)"
        )


@app.command()
def doctor(
    profile: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(NAMES)}. None: what params.yaml holds.")
    ] = None,
) -> None:
    """Say of every component of a profile whether it is ready, what is missing, its licence and the next step."""
    from stages.doctor import components, shown  # all backends: seconds

    params = parse_params(profile_values(profile), f"params/{profile}.yaml") if profile else load_params()
    found = list(components(params))
    for line in (line for component in found for line in shown(component)):
        console.print(Text(line), soft_wrap=True)
    missing = sum(not component.ready for component in found)
    console.print(f"{len(found) - missing} of {len(found)} components are ready")
    raise typer.Exit(1 if missing else 0)


@models_app.command("list")
def models_list() -> None:
    """Every published model that a backend knows by name: licence, memory, what is downloaded."""
    from stages.doctor import listed

    for line in listed():
        console.print(Text(line), soft_wrap=True)


@models_app.command("verify")
def models_verify(
    folder: Annotated[
        Path | None, typer.Argument(help="A model's folder. None: the models that params.yaml uses.")
    ] = None,
) -> None:
    """Read every byte of a model's files: print the digest of a folder, or compare with what was declared."""
    from stages.doctor import verified, verified_folder

    if folder is not None:
        console.print(Text(f"{verified_folder(folder)}  {folder}"), soft_wrap=True)
        return
    lines = verified(load_params()) or ["params.yaml: no published model is in use"]
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def main() -> None:
    """Entry point of `python -m stages`."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
