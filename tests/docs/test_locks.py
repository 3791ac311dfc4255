"""A formula's docstring names the test that locks it ("Locked by test_..."), and that test exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORMULAS = (
    *("distill/losses", "fit/losses", "geometry/filters", "geometry/rotations", "networks/diffusion"),
    *(f"metrics/{n}" for n in ("bootstrap", "frechet", "image", "motion", "mouth", "sync", "vertices")),
)


def locked_by(path: Path) -> dict[str, list[str]]:
    """Public function or class of a module -> tests that its docstring names."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            text = " ".join((ast.get_docstring(node) or "").split())
            said = re.search(r"Locked by (test_\w+(?:, test_\w+)*)\.", text)
            found[node.name] = said.group(1).split(", ") if said else []
    return found


def test_tests_named_in_docstrings_exist():
    trees = [ast.parse(p.read_text()) for p in (ROOT / "tests").rglob("test_*.py")]
    tests = {n.name for tree in trees for n in tree.body if isinstance(n, ast.FunctionDef)}
    said = {p: locked_by(p) for p in (ROOT / "avatar_core").rglob("*.py")}
    named = {t for names in said.values() for some in names.values() for t in some}
    assert len(named) > 40 and named - tests == set()


@pytest.mark.parametrize("module", FORMULAS)
def test_every_formula_names_its_test(module):
    path = ROOT / "avatar_core" / f"{module}.py"
    functions = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)}
    assert [name for name, tests in locked_by(path).items() if name in functions and not tests] == []
