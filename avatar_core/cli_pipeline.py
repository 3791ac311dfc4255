"""Commands of `avatar` for work on the pipeline: each passes its arguments on to a module of the checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from avatar_core.errors import UserError


def add_pipeline_commands(app: typer.Typer) -> None:
    """Add inspect, profile, ablate, doctor, models."""
    for command in (inspect, profile, ablate, doctor, models):
        app.command(
            context_settings={
                "allow_extra_args": True,
                "ignore_unknown_options": True,
                "help_option_names": [],
            }
        )(command)


def inspect(context: typer.Context) -> None:
    """Print and open what a stage of the pipeline made. Same as `python -m stages inspect`."""
    _run_in_project("stages", "inspect", *context.args)


def profile(context: typer.Context) -> None:
    """Which parameters the pipeline runs with: smoke, laptop, studio-lite, studio, cluster. Same as `python -m stages profile`."""
    _run_in_project("stages", "profile", *context.args)


def ablate(context: typer.Context) -> None:
    """Run the paper's ablations beside the full run, and write one table. Same as `python -m flows.ablate`."""
    _run_in_project("flows.ablate", *context.args)


def doctor(context: typer.Context) -> None:
    """What a profile of the pipeline needs and lacks on this machine. Same as `python -m stages doctor`."""
    _run_in_project("stages", "doctor", *context.args)


def models(context: typer.Context) -> None:
    """Published models: list them, verify their files. Same as `python -m stages models`."""
    _run_in_project("stages", "models", *context.args)


def _run_in_project(*command: str) -> None:
    """Become `python -m COMMAND` in the checkout that holds dvc.yaml, here or above: the library knows no stages.

    No process stays between it and whoever ends it.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "dvc.yaml").is_file() and (folder / "stages").is_dir():
            os.chdir(folder)
            os.execv(sys.executable, [sys.executable, "-m", *command])
    raise UserError(f"{Path.cwd()}: expected a checkout of the project (dvc.yaml), found none here or above")
