"""How long work tells how far it is: one shape of callback, for a bar on a terminal or a line in a log."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[
    [int, int, str], None
]  # done, total, what: the part of the work, or a training's latest losses


def silent(done: int, total: int, what: str) -> None:
    """Nobody listens."""
