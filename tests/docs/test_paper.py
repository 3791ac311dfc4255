"""docs/paper.md promises code, tests and switches: all of them exist."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from avatar_core.config import fields_of, keys_of
from stages.params import Params

ROOT = Path(__file__).resolve().parents[2]
HEADER = ["in the paper", "code", "test", "switch", "what differs"]


def rows() -> list[dict[str, str]]:
    found = []
    for line in (ROOT / "docs" / "paper.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells != HEADER and not set(line) <= set("|-"):
            assert len(cells) == len(HEADER), line
            found.append(dict(zip(HEADER, cells, strict=True)))
    return found


ROWS = rows()


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@cache
def functions(path: Path) -> set[str]:
    return {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)}


def known_keys() -> Iterator[str]:
    """All keys of params.yaml, those of the default backends' sections among them."""
    params = Params()
    yield from keys_of(params)
    for section in fields_of(Params):
        values = getattr(params, section)
        for role, backend in getattr(values, "chosen", {}).items():
            yield from keys_of(backend, f"{section}.{getattr(values, role, role)}.")


@pytest.mark.parametrize("row", ROWS, ids=[row["in the paper"][:40] for row in ROWS])
def test_a_row_names_code_and_a_test_that_exist(row):
    symbols, tests = quoted(row["code"]), quoted(row["test"])
    assert symbols and tests
    for symbol in symbols:
        module, _, name = symbol.partition(":")
        value = importlib.import_module(f"avatar_core.{module}")
        for part in name.split("."):
            value = getattr(value, part)
    for test in tests:
        file, _, name = test.partition("::")
        assert name in functions(ROOT / "tests" / file), test


def test_every_switch_is_a_parameter():
    named = {key for row in ROWS for key in quoted(row["switch"])}
    assert named - set(known_keys()) == set()
