"""What was taken and what was refused, for people (report.md, contact_sheet.png) and for programs (report.json)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from avatar_core.clock import FPS
from avatar_core.ingest.pieces import Piece
from avatar_core.ingest.sync import Sync
from avatar_core.io.atomic import write_json, write_text
from avatar_core.io.images import contact_sheet

SHEET = 60  # pictures at most


@dataclass
class FileReport:
    """One file: its name below the folder, why it is refused as a whole (empty: it is not), what was found in it."""

    name: str
    refused: str = ""
    seconds: float = 0.0
    size: tuple[int, int] = (0, 0)
    sync: Sync | None = None
    shift: int = 0
    pieces: list[Piece] = field(default_factory=list)
    clips: dict[int, list[str]] = field(default_factory=dict)  # piece -> names of its clips
    pictures: dict[int, np.ndarray] = field(default_factory=dict)  # piece -> a picture of it

    @property
    def taken(self) -> list[Piece]:
        return [p for p in self.pieces if not p.reason]


@dataclass(frozen=True)
class PersonReport:
    id: str
    portrait: str
    files: list[str]
    clips: int
    seconds: float


def write_report(folder: Path, files: list[FileReport], people: list[PersonReport], params: str) -> None:
    """report.json, report.md and contact_sheet.png in `folder`. params: the lines of params.yaml that use the clips."""
    write_json(
        folder / "report.json", {"files": [_entry(f) for f in files], "people": [vars(p) for p in people]}
    )
    write_text(folder / "report.md", _page(files, people, params))
    images, captions = [], []
    for file in files:
        for k, piece in enumerate(file.pieces):
            if k in file.pictures:
                images.append(file.pictures[k])
                said = piece.reason or ", ".join(n.rsplit("-", 2)[-2] for n in file.clips.get(k, []))
                captions.append(
                    f"{Path(file.name).name} {_span(piece)}\n{'NO: ' if piece.reason else ''}{said}"
                )
    if images:
        contact_sheet(
            folder / "contact_sheet.png",
            images[:SHEET],
            captions[:SHEET],
            columns=6,
            cell=256,
            title="ingest",
        )


def _entry(file: FileReport) -> dict[str, Any]:
    return {
        "file": file.name,
        "refused": file.refused,
        "seconds": round(file.seconds, 2),
        "size": list(file.size),
        "sync": None if file.sync is None else {k: round(float(v), 3) for k, v in vars(file.sync).items()},
        "sound_moved_ms": round(1000 * file.shift / FPS),
        "shots": [
            {
                "from_s": round(p.start / FPS, 2),
                "to_s": round(p.stop / FPS, 2),
                "refused": p.reason,
                "note": p.note,
                "clips": file.clips.get(k, []),
            }
            for k, p in enumerate(file.pieces)
        ],
    }


def _page(files: list[FileReport], people: list[PersonReport], params: str) -> str:
    taken = sum(p.seconds for f in files for p in f.taken)
    lines = [
        "# Recorded clips",
        "",
        f"{len(files)} files, {taken:.1f} s of talk taken, {len(people)} people.",
        "",
    ]
    lines += ["![contact sheet](contact_sheet.png)", ""] if any(f.pictures for f in files) else []
    if people:
        lines += ["| person | portrait | clips | seconds | files |", "|---|---|---|---|---|"]
        lines += [
            f"| {p.id} | {p.portrait} | {p.clips} | {p.seconds:.1f} | {', '.join(p.files)} |" for p in people
        ]
        lines += ["", "In params.yaml:", "", "```yaml", params.rstrip(), "```", ""]
    for file in files:
        lines += [f"## {file.name}", ""]
        if file.refused:
            lines += [f"Refused: {file.refused}", ""]
            continue
        lines.append(f"{file.seconds:.1f} s, {file.size[0]} x {file.size[1]} px. {_sync(file)}")
        lines += ["", "| from to | | |", "|---|---|---|"]
        for k, p in enumerate(file.pieces):
            names = ", ".join(file.clips.get(k, []))
            lines.append(
                f"| {_span(p)} | {'refused' if p.reason else 'taken'} | {p.reason or names}{f' ({p.note})' if p.note else ''} |"
            )
        lines.append("")
    return "\n".join(lines) + "\n"


def _sync(file: FileReport) -> str:
    if file.sync is None:
        return "Lips and sound were not compared."
    s = file.sync
    return f"Lips and sound: correlation {s.near:.2f}, {s.near_sure:.1f} standard deviations above chance over {s.seconds:.0f} s."


def _span(piece: Piece) -> str:
    return f"{piece.start / FPS:.1f}-{piece.stop / FPS:.1f} s"
