"""`catalog.parquet`: one row a clip, declared schema, sorted by id, same rows -> same bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avatar_core.errors import UserError
from avatar_core.io.atomic import atomic_file

SCHEMA_VERSION = "1"
SPLITS = ("train", "val", "test")

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # train | val | test
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("t_start", pa.int64()),  # first frame in the shard's trajectory store
        pa.field("t_len", pa.int64()),  # frames
        pa.field("fps", pa.float64()),
        pa.field("framing", pa.string()),  # face | waist_up | full_body | portrait
        pa.field("text", pa.string()),
        pa.field("language", pa.string()),
        pa.field("voice", pa.string()),
        pa.field("backend", pa.string()),
        pa.field("sha256", pa.string()),  # of the file the row describes
        pa.field("status", pa.string()),  # ok | rejected
        pa.field("reject_reason", pa.string()),
        pa.field("qc", pa.map_(pa.string(), pa.float64())),  # quality-control numbers by name
    ],
    metadata={"schema_version": SCHEMA_VERSION},
)

# of what published models made: id, commit or digest, licence; only in catalogues where a row has them
MODEL = pa.schema([pa.field(name, pa.string()) for name in ("model", "revision", "licence")])
WITH_MODEL = pa.schema([*SCHEMA, *MODEL], metadata=SCHEMA.metadata)

DEFAULTS: dict[str, Any] = {"fps": 25.0, "status": "ok", "qc": {}}


def write_catalog(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows (dicts by the schema's names; what may be null may be left out) atomically, sorted by id.

    Raises ValueError for an unknown column, a missing one, a doubled id or an unknown split: programmers' errors.
    """
    rows = list(rows)
    schema = WITH_MODEL if any(row.get(name) for row in rows for name in MODEL.names) else SCHEMA
    table_rows: list[dict[str, Any]] = []
    for row in rows:
        unknown = sorted(set(row) - set(WITH_MODEL.names))
        if unknown:
            raise ValueError(f"catalogue row {row.get('id')!r}: unknown columns {unknown}")
        full = {name: row.get(name, DEFAULTS.get(name)) for name in schema.names}
        missing = [f.name for f in SCHEMA if not f.nullable and full[f.name] is None]
        if missing or full["split"] not in SPLITS:
            raise ValueError(
                f"catalogue row {row.get('id')!r}: missing {missing} or unknown split {full['split']!r}"
            )
        full["qc"] = sorted(
            (str(k), None if v is None else float(v)) for k, v in dict(full["qc"] or {}).items()
        )
        table_rows.append(full)
    table_rows.sort(key=lambda r: r["id"])
    ids = [r["id"] for r in table_rows]
    if len(set(ids)) != len(ids):
        raise ValueError(f"catalogue {path}: doubled ids")
    table = pa.Table.from_pylist(table_rows, schema=schema)
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_catalog(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Rows sorted by id, `qc` as a dict. Raises UserError: missing, damaged, another schema."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected a catalogue, found no such file")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: expected a Parquet catalogue, found a damaged file ({error})") from None
    if not any(table.schema.equals(schema) for schema in (SCHEMA, WITH_MODEL)):
        raise UserError(
            f"{path}: expected the columns of schema {SCHEMA_VERSION}, found {table.schema.names}"
        )
    rows = table.to_pylist()
    for row in rows:
        row["qc"] = dict(row["qc"] or [])
    return rows
