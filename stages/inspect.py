"""What a stage made, for people: its numbers, its files, and pictures to open. Behind `avatar inspect`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from avatar_core.errors import UserError
from avatar_core.io.catalog import read_catalog
from avatar_core.io.store import MANIFEST, Store
from stages.common import STAGES
from stages.listing import Wanted, by_prefix, catalog_lines, file_lines, metric_lines, size_text

PICTURES = (".png", ".mp4", ".html", ".ply", ".svg")


def inspect_all(console: Console, root: Path = Path(".")) -> None:
    """Print the headline metrics of every stage that has run."""
    for stage in STAGES:
        if columns := _metrics(root / "data" / "reports" / stage, ("metrics.json",)):
            _title(console, stage)
            _print(console, metric_lines(columns, console.width))


def inspect_stage(
    stage: str,
    name: str | None,
    console: Console,
    wanted: Wanted,
    page: int | None = 1,
    details: bool = False,
    root: Path = Path("."),
) -> list[Path]:
    """Print what `stage` made (all of it, or what belongs to clip or identity `name`); returns what is worth opening.

    `wanted` and `page` (None: all) choose catalogue rows; `details`: all metrics, and not only the headline.
    Raises UserError: no such stage, it has not run, nothing of that name, no such page or value.
    """
    if stage not in STAGES:
        raise UserError(f"stage: expected one of {', '.join(STAGES)}; found {stage!r}")
    data, reports = root / "data" / stage, root / "data" / "reports" / stage
    if stage == "report":
        page_file = root / "data" / "reports" / "index.html"
        if not page_file.is_file():
            raise UserError(f"{page_file}: expected the report page, found none; run `dvc repro`")
        return [page_file]
    if not data.exists() and not reports.exists():
        raise UserError(f"{data}: expected the output of {stage}, found none; run `dvc repro {stage}`")
    if name is not None:
        return _inspect_one(stage, name, data, console, wanted)
    rows = [row for path in sorted(data.rglob("catalog.parquet")) for row in read_catalog(path)]
    listed = catalog_lines(wanted.choose(rows), page, console.width) if rows else []
    _title(console, "metrics" if details else "metrics (more with --details)")
    columns = _metrics(reports, ("metrics.json", "details.json") if details else ("metrics.json",))
    if details and list(columns) == [""]:
        columns = by_prefix(columns[""])
    _print(console, metric_lines(columns, console.width))
    if listed:
        _title(console, f"catalogue: {listed[0]}")
        _print(console, listed[1:])
    _title(console, "files")
    _print(console, file_lines(data, root))
    return sorted(p for p in reports.rglob("*") if p.suffix == ".png")


def _metrics(reports: Path, files: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{shard or "": {metric: value}} of the metrics files of those names."""
    columns: dict[str, dict[str, Any]] = {}
    for path in [p for file in files for p in sorted(reports.rglob(file))]:
        shard = str(path.parent.relative_to(reports)).removeprefix(".")
        columns.setdefault(shard, {}).update(json.loads(path.read_text()))
    return columns


def _inspect_one(stage: str, name: str, data: Path, console: Console, wanted: Wanted) -> list[Path]:
    catalog = [row for path in sorted(data.rglob("catalog.parquet")) for row in read_catalog(path)]
    rows = wanted.choose([row for row in catalog if name in (row["id"], row["identity"])])
    files = sorted(
        p for p in data.rglob("*") if (p.is_file() and p.stem == name) or p.name.startswith(f"{name}.")
    )
    stores = sorted(p.parent for p in data.rglob(MANIFEST))
    arrays = [(s, a) for s in stores for a in _array_lines(s, name)]
    if not rows and not files and not arrays:
        some = ", ".join(sorted(row["id"] for row in catalog)[:8]) or "nothing"
        raise UserError(
            f"{stage}: expected the name of a clip or identity, found {name!r}; it made {some} ..."
        )
    if len(rows) > 1:
        _print(console, catalog_lines(rows, None, console.width)[1:])
    for row in rows if len(rows) == 1 else ():
        _title(console, row["id"])
        values = {k: v for k, v in row.items() if v not in (None, "") and k not in ("id", "qc")}
        _print(console, [f"  {k:13} {v}" for k, v in values.items()])
        _print(console, metric_lines({"": row["qc"]}, console.width))
    _print(console, [f"{store}: {line}" for store, line in arrays])
    for file in files:
        _print(console, [f"{file}  {size_text(file.stat().st_size)}"])
        if file.suffix == ".json" and file.stat().st_size < 4000:
            _print(console, [file.read_text().rstrip()])
    return [f for f in files if f.suffix in PICTURES]


def _array_lines(path: Path, name: str) -> list[str]:
    store = Store(path)
    lines = []
    clips = store.attrs.get("clips", {})
    for array in store.names():
        shape = store.shape(array)
        if array.split("/")[-1] == name or f"/{name}/" in f"/{array}/":
            lines.append(f"{array} {shape}")
        elif name in clips:
            lines.append(f"{array} frames {clips[name][0]} to {sum(clips[name])} of {shape}")
    return lines


def _title(console: Console, text: str) -> None:
    console.print(Text(text, "bold"), soft_wrap=True)


def _print(console: Console, lines: Sequence[str]) -> None:
    """As they are: no markup in ids and paths, nothing cut and no line broken."""
    for line in lines:
        console.print(Text(line), soft_wrap=True)
