"""A progress bar with rate and time left: live on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LOG_EVERY = 10.0  # seconds between lines where there is no terminal


class Bar:
    """`with Bar("fit-0", 30, "clip") as bar: bar.advance(note="psnr 27.1")`."""

    def __init__(self, label: str, total: int, unit: str = "step"):
        self.label, self.total, self.unit, self.count = label, total, unit, 0
        self._note = ""

    def __enter__(self) -> Bar:
        self._start = self._logged = time.monotonic()
        console = Console(stderr=True)
        self._rich: RichProgress | None = None
        if console.is_terminal:
            self._rich = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._rich.start()
            self._task = self._rich.add_task(self.label, total=self.total, rate="", note="")
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` (the latest losses, say) is shown until the next."""
        self.count += count
        self._note = note or self._note
        now = time.monotonic()
        rate = self.count / max(now - self._start, 1e-6)
        shown = f"{rate:.2f} {self.unit}/s" if rate >= 0.1 else f"{1 / max(rate, 1e-6):.0f} s/{self.unit}"
        if self._rich:
            self._rich.update(self._task, advance=count, rate=shown, note=self._note)
        elif now - self._logged >= LOG_EVERY or self.count == self.total:
            self._logged = now
            left = (self.total - self.count) / max(rate, 1e-6)
            line = f"{self.label}: {self.count}/{self.total}, {shown}, ETA {left:.0f} s {self._note}".rstrip()
            print(line, file=sys.stderr, flush=True)

    def reach(self, done: int, total: int, what: str) -> None:
        """`done` in all are done: the form of `avatar_core.progress`."""
        if total != self.total:
            self.total = total
            if self._rich:
                self._rich.update(self._task, total=total)
        self.advance(max(0, done - self.count), what)

    def __exit__(self, *_: object) -> None:
        if self._rich:
            self._rich.stop()
