"""Lists for a terminal of 80 columns: catalogue rows by person and page, metrics in columns, files by folder and kind.

All functions return plain lines. Ids and paths are never shortened; sentences are, to what is left of the line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from avatar_core.errors import UserError
from avatar_core.io.store import MANIFEST

PAGE = 30  # rows
ALIKE = 3  # more files than these of a folder with one ending are one line
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Wanted:
    """Which catalogue rows to list: those with these values ("" = any)."""

    split: str = ""
    framing: str = ""
    language: str = ""
    status: str = ""

    def choose(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that fit. Raises UserError for a value that no row has."""
        chosen = list(rows)
        for column, value in asdict(self).items():
            known = sorted({str(r[column]) for r in rows if r[column] is not None})
            if value and value not in known:
                raise UserError(
                    f"--{column}: expected one of {', '.join(known) or 'none here'}, found {value!r}"
                )
            chosen = [r for r in chosen if value in ("", r[column])]
        return chosen


def catalog_lines(rows: Sequence[Row], page: int | None, width: int = 80) -> list[str]:
    """Rows under the name of their person; `page` of `PAGE` rows, 1 the first, None: all of them.

    Raises UserError when there is no such page.
    """
    rows = sorted(rows, key=lambda r: (r["identity"], r["id"]))
    pages = max(1, -(-len(rows) // PAGE))
    if page is not None and not 1 <= page <= pages:
        raise UserError(f"--page: expected 1 to {pages}, found {page}")
    first = 0 if page is None else (page - 1) * PAGE
    shown = rows[first:] if page is None else rows[first : first + PAGE]
    people = len({r["identity"] for r in rows})
    lines = [f"{len(rows)} rows, {people} {'person' if people == 1 else 'people'}"]
    for identity, clips in groupby(shown, key=lambda r: r["identity"]):
        lines += _person_lines(identity, list(clips), width)
    if len(shown) < len(rows):
        more = f"--page {page + 1} or " if page and page < pages else ""
        lines.append(
            f"rows {first + 1} to {first + len(shown)} of {len(rows)}; more: {more}--all; fewer: --split, --framing"
        )
    return lines


def _person_lines(identity: str, rows: Sequence[Row], width: int) -> list[str]:
    head = f"{identity}  {rows[0]['split']}, shard {rows[0]['shard']}"
    clips = [r for r in rows if r["id"] != identity]
    name = max((len(r["id"]) for r in clips), default=0)
    lines = [head + _verdict(r) for r in rows if r["id"] == identity] or [head]
    for row in clips:
        seconds = f"{row['t_len'] / row['fps']:5.1f} s" if row["t_len"] and row["fps"] else " " * 7
        start = f"  {row['id']:{name}} {seconds}  {row['language'] or '':3} {row['voice'] or '':6}"
        start = start.rstrip() + _verdict(row)
        lines.append(_with_text(start, row["text"] or "", width))
    return lines


def _verdict(row: Row) -> str:
    if row["status"] in (None, "ok"):
        return ""
    return f"  {row['status']}: {row['reject_reason']}" if row["reject_reason"] else f"  {row['status']}"


def _with_text(start: str, text: str, width: int) -> str:
    room = width - len(start) - 2
    if not text or room < 12:
        return start
    return f"{start}  {text if len(text) <= room else text[: room - 3].rstrip() + '...'}"


def metric_lines(columns: Mapping[str, Mapping[str, Any]], width: int = 80) -> list[str]:
    """One line a metric, one column a file (or a row of a table); columns that do not fit go into a block below."""
    lines: list[str] = []
    left = [name for name in columns if columns[name]]
    while left:
        block = left[:1]
        while len(block) < len(left) and _block_width(columns, left[: len(block) + 1]) <= width:
            block = left[: len(block) + 1]
        left = left[len(block) :]
        names = sorted({metric for column in block for metric in columns[column]})
        first = max(len(n) for n in names)
        widths = [_column_width(column, columns[column]) for column in block]
        if any(block):
            lines.append(
                (
                    "  " + " " * first + "".join(f"  {c:>{w}}" for c, w in zip(block, widths, strict=True))
                ).rstrip()
            )
        for metric in names:
            cells = [_number(columns[c][metric]) if metric in columns[c] else "" for c in block]
            row = "".join(f"  {cell:>{w}}" for cell, w in zip(cells, widths, strict=True))
            lines.append(f"  {metric:{first}}{row}".rstrip())
    return lines


def by_prefix(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{"ours.FID": 1, "clips": 2} -> {"ours": {"FID": 1}, "": {"clips": 2}}: the fullest column first."""
    columns: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        prefix, _, metric = name.rpartition(".")
        columns.setdefault(prefix, {})[metric] = value
    return dict(sorted(columns.items(), key=lambda item: -len(item[1])))


def _block_width(columns: Mapping[str, Mapping[str, Any]], block: Sequence[str]) -> int:
    first = max(len(metric) for column in block for metric in columns[column])
    return 2 + first + sum(2 + _column_width(column, columns[column]) for column in block)


def _column_width(name: str, values: Mapping[str, Any]) -> int:
    return max(len(name), *(len(_number(v)) for v in values.values()))


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def file_lines(folder: Path, root: Path) -> list[str]:
    """Sizes of the files in `folder`; a store is one line, and so are many files with one ending in one folder."""
    stores = {p.parent for p in folder.rglob(MANIFEST)}
    alike: dict[Path, list[int]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        owner = next((p for p in path.parents if p in stores), None)
        alike.setdefault(owner or path.parent / f"*{path.suffix}", []).append(path.stat().st_size)
    lines: list[tuple[str, str]] = []
    for place, sizes in alike.items():
        if place in stores or len(sizes) > ALIKE:
            count = "" if place in stores else f"{len(sizes)} files, "
            lines.append((str(place.relative_to(root)), f"{count}{size_text(sum(sizes))}"))
        else:
            files = [p for p in sorted(place.parent.glob(place.name)) if p.is_file()]
            lines += [(str(p.relative_to(root)), size_text(p.stat().st_size)) for p in files]
    first = max((len(name) for name, _ in lines), default=0)
    return [f"  {name:{first}}  {size}" for name, size in sorted(lines)]


def size_text(count: int) -> str:
    """Bytes as kB or MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
