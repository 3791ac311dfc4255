"""What Prefect shows of a stage: how far it is, from its own counter; then its metrics, a summary, its contact sheet.

Made within a flow's or task's run, which they belong to. That a server cannot take one is said and harms no stage.
"""

from __future__ import annotations

import base64
import io
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import flows.quiet  # noqa: F401  isort: skip
import httpx
from PIL import Image
from prefect import get_client
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run

from flows.slots import cpu_kind

THUMBNAIL = (640, 640)  # px at most; it travels within the summary
_COUNTER = re.compile(
    r"(?P<label>[\w-]+): (?P<done>\d+)/(?P<total>\d+), (?P<rest>.*)"
)  # a line of stages.progress


class Progress:
    """Hears the lines of a stage and keeps a progress artifact: `Progress("fit@0", say)` is called with each line."""

    def __init__(self, stage: str, say: Callable[[str], None]):
        self.stage, self.say = stage, say
        self._artifact: UUID | None = None

    def __call__(self, line: str) -> None:
        self.say(line)
        found = _COUNTER.fullmatch(line)
        if found and found["label"] == label(self.stage) and int(found["total"]):
            percent = 100 * int(found["done"]) / int(found["total"])
            _try(
                lambda: self._show(percent, f"{found['done']} of {found['total']}, {found['rest']}"), self.say
            )

    def _show(self, percent: float, text: str) -> None:
        if self._artifact is None:
            made = create_progress_artifact(percent, f"{label(self.stage)}-progress", text)
            self._artifact = cast(UUID, made)  # no coroutine: nothing here is async
        else:
            update_progress_artifact(self._artifact, percent, text)


def tag_machine(say: Callable[[str], None]) -> None:
    """Give this flow's run tags of where it runs: the host, and the kind of CPU, which may change the last bits of results."""
    tags = {*flow_run.tags, f"host:{socket.gethostname()}", f"cpu:{cpu_kind()}"}

    def update() -> None:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run.id), tags=tags)

    _try(update, say)


def show_stage(
    stage: str, root: Path, said: str, link: Callable[[Path], str], say: Callable[[str], None]
) -> None:
    """Table of metrics, summary with a thumbnail, link: of the reports that `stage` has left in the workspace `root`.

    `said`: a line on how it went; `link`: a file of the reports -> the address under which others find it.
    """
    folder = root / "data" / "reports" / stage.replace("@", "/shard-")
    if folder.is_dir():
        _try(lambda: _show_reports(stage, folder, said, link), say)


def _show_reports(stage: str, folder: Path, said: str, link: Callable[[Path], str]) -> None:
    key, sheet = label(stage), folder / "contact_sheet.png"
    metrics = _read(folder / "metrics.json")
    if metrics:
        rows: list[dict[str, Any]] = [{"metric": name, "value": value} for name, value in metrics.items()]
        create_table_artifact(rows, f"{key}-metrics", f"metrics of {stage}")
    details = _read(folder / "details.json")
    text = [f"# {stage}", f"{said}, on {socket.gethostname()} ({cpu_kind()})", ""]
    text += ["| metric | value |", "|---|---|"]
    text += [f"| {name} | {value} |" for name, value in {**metrics, **details}.items()]
    if sheet.is_file():
        address = link(sheet)
        small = thumbnail(sheet)
        text += ["", f"![contact sheet]({small})", "", f"[contact sheet]({address})"]
        # Prefect's second user interface leaves such pictures out of a text, but not this:
        create_image_artifact(small, f"{key}-thumbnail", f"contact sheet of {stage}")
        create_link_artifact(address, "contact sheet", f"{key}-sheet", f"contact sheet of {stage}")
    create_markdown_artifact("\n".join(text), f"{key}-summary", f"summary of {stage}")


def label(stage: str) -> str:
    """stage@shard as a stage's own lines and Prefect's keys have it: `fit-0`."""
    return stage.replace("@", "-").replace("_", "-").lower()


def thumbnail(path: Path) -> str:
    """A picture, made small, as a data: address."""
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _try(act: Callable[[], None], say: Callable[[str], None]) -> None:
    try:
        act()
    except (httpx.HTTPError, PrefectException, OSError) as error:
        say(f"Prefect takes no artifact: {type(error).__name__}: {' '.join(str(error).split())}")
