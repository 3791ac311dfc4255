"""What the `avatar` command shows on a terminal: lines, bars, warnings, the one line of an error.

Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from avatar_core.errors import InputWarning
from avatar_core.progress import Progress

err_console = Console(stderr=True)


def say(line: str) -> None:
    """One line on stdout as it is: a file's name may hold what rich takes for markup, or what the terminal cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding))


@contextmanager
def bars() -> Iterator[Progress]:
    """Shows a bar for each `what`, with time left."""
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Bars(*columns, console=err_console) as shown:

        def show(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total)
            shown.update(tasks[what], completed=done)

        yield show


def show_warning(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    """In place of `warnings.showwarning`: one line for what the user gave, nothing for the rest."""
    if issubclass(category, InputWarning):
        print(f"warning: {message}", file=sys.stderr)


def end(line: str) -> NoReturn:
    """The line on stderr, and exit code 2."""
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
