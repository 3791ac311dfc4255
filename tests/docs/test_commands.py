"""Every command in README, CONTRIBUTING and docs/ exists: make targets, modules, subcommands and their options, stages."""

from __future__ import annotations

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
import yaml

from avatar_core.cli import app
from flows.ablate import command_line
from stages.__main__ import app as stages_app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
AVATAR, STAGES = typer.main.get_command(app), typer.main.get_command(stages_app)
ABLATE = {option for action in command_line()._actions for option in action.option_strings}


def commands(page: Path) -> list[str]:
    """Lines of indented blocks and code spans that start like a command, comments cut off, `a && b` taken apart."""
    text = page.read_text()
    lines = re.findall(r"^ {4,}(\S.*)$", text, re.M) + re.findall(r"`([^`\n]+)`", text)
    parts = [part.strip() for line in lines for part in re.split(r"\s#|&&", line)]
    return [p for p in parts if re.match(r"(make|avatar|dvc|pytest|(\S*/)?python -m) \S", p)]


def unknown(group, words: list[str]) -> list[str]:
    """Words of a command line of `group` that are no subcommand or option of it."""
    command = group
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        if name not in command.commands:
            return [name] if name.islower() else []
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return [word for word in words if word.startswith("--") and word not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    stages = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    wrong = []
    for line in commands(page):
        program, *words = line.split()
        if program == "make":
            wrong += [f"make {w}" for w in words if w.isalpha() and w not in targets]
        elif program == "avatar" and words[0] == "ablate":
            wrong += [f"{line}: {w}" for w in words if w.startswith("--") and w not in ABLATE]
        elif program == "avatar":
            group = STAGES if words[0] in ("inspect", "profile", "doctor", "models") else AVATAR
            wrong += [f"{line}: {w}" for w in unknown(group, words)]
        elif program.endswith("python") and find_spec(words[1].rstrip(":")) is None:
            wrong.append(line)
        elif line.startswith("python -m stages "):
            wrong += [f"{line}: {w}" for w in unknown(STAGES, words[2:])]
        elif line.startswith("dvc repro "):
            wrong += [f"{line}: {w}" for w in words[1:] if w.isalpha() and w.islower() and w not in stages]
    assert wrong == []


def test_pages_have_commands_to_check():
    assert sum(len(commands(page)) for page in PAGES) > 25


def test_make_help_lists_every_target():
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert [line.split()[1] for line in shown.splitlines()] == targets
