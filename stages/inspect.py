"""What a stage made, for people: its numbers, its files, and pictures to open. Behind `avatar inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from avatar_core.errors import UserError
from avatar_core.io.catalog import read_catalog
from avatar_core.io.store import MANIFEST, Store
from stages.common import STAGES

PICTURES = (".png", ".mp4", ".html", ".ply", ".svg")
SHOWN = 40


def inspect_stage(stage: str, name: str | None, console: Console, root: Path = Path(".")) -> list[Path]:
    """Print what `stage` made (all of it, or what belongs to clip or identity `name`); returns what is worth opening.

    Raises UserError: no such stage, it has not run, nothing of that name.
    """
    if stage not in STAGES:
        raise UserError(f"stage: expected one of {', '.join(STAGES)}; found {stage!r}")
    data, reports = root / "data" / stage, root / "data" / "reports" / stage
    if stage == "report":
        page = root / "data" / "reports" / "index.html"
        if not page.is_file():
            raise UserError(f"{page}: expected the report page, found none; run `dvc repro`")
        console.print(page)
        return [page]
    if not data.exists() and not reports.exists():
        raise UserError(f"{data}: expected the output of {stage}, found none; run `dvc repro {stage}`")
    if name is not None:
        return _inspect_one(stage, name, data, console)
    for metrics in sorted(reports.rglob("metrics.json")):
        console.print(_metrics_table(metrics, root))
    rows = [row for path in sorted(data.rglob("catalog.parquet")) for row in read_catalog(path)]
    if rows:
        console.print(_catalog_table(rows))
    console.print(_files_table(data, root))
    return sorted(p for p in reports.rglob("*") if p.suffix == ".png")


def _inspect_one(stage: str, name: str, data: Path, console: Console) -> list[Path]:
    rows = [
        r
        for p in sorted(data.rglob("catalog.parquet"))
        for r in read_catalog(p)
        if name in (r["id"], r["identity"])
    ]
    files = sorted(
        p for p in data.rglob("*") if (p.is_file() and p.stem == name) or p.name.startswith(f"{name}.")
    )
    stores = sorted(p.parent for p in data.rglob(MANIFEST))
    arrays = [(s, a) for s in stores for a in _array_lines(s, name)]
    if not rows and not files and not arrays:
        known = sorted({r["id"] for p in data.rglob("catalog.parquet") for r in read_catalog(p)})
        some = ", ".join(known[:8]) or "nothing"
        raise UserError(
            f"{stage}: expected the name of a clip or identity, found {name!r}; it made {some} ..."
        )
    for row in rows:
        console.print(_pairs_table(row["id"], {k: v for k, v in row.items() if v not in (None, {}, "")}))
    for store, line in arrays:
        console.print(f"{store}: {line}")
    for file in files:
        console.print(f"{file}  {_size(file.stat().st_size)}")
        if file.suffix == ".json":
            console.print_json(
                file.read_text()[:4000]
                if file.stat().st_size < 4000
                else json.dumps({"bytes": file.stat().st_size})
            )
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


def _metrics_table(path: Path, root: Path) -> Table:
    return _pairs_table(str(path.relative_to(root)), json.loads(path.read_text()))


def _pairs_table(title: str, values: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, min_width=min(76, len(title) + 2))
    for key, value in values.items():
        table.add_row(str(key), f"{value:.6g}" if isinstance(value, float) else str(value))
    return table


def _catalog_table(rows: list[dict[str, Any]]) -> Table:
    names = ["id", "identity", "split", "shard", "framing", "t_len", "language", "voice", "status", "text"]
    names = [n for n in names if any(r[n] is not None for r in rows)]
    table = Table(*names, title=f"{len(rows)} rows", title_justify="left")
    for row in rows[:SHOWN]:
        table.add_row(*("" if row[n] is None else str(row[n]) for n in names))
    if len(rows) > SHOWN:
        table.add_row(f"... {len(rows) - SHOWN} more")
    return table


def _files_table(data: Path, root: Path) -> Table:
    """Folders and files, a store as one line."""
    table = Table("file", "size", title=str(data.relative_to(root)), title_justify="left")
    stores = {p.parent for p in data.rglob(MANIFEST)}
    files = [p for p in sorted(data.rglob("*")) if p.is_file() and not stores & set(p.parents)]
    lines = [(p, p.stat().st_size) for p in files] + [
        (s, sum(f.stat().st_size for f in s.rglob("*") if f.is_file())) for s in stores
    ]
    for path, size in sorted(lines)[:SHOWN]:
        table.add_row(str(path.relative_to(root)), _size(size))
    if len(lines) > SHOWN:
        table.add_row(f"... {len(lines) - SHOWN} more", _size(sum(size for _, size in lines)))
    return table


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
