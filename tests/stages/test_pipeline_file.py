"""dvc.yaml lists everything that a stage's result depends on: code by its imports, parameters by its sections."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# plumbing that carries no result: command line, progress, processes, the checking of parameters
PLUMBING = {"avatar_core/errors.py", *(f"stages/{n}.py" for n in ("common", "params", "progress", "workers"))}


def module_file(name):
    path = ROOT / name.replace(".", "/")
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imported(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {f for n in names if n.split(".")[0] in ("avatar_core", "stages") and (f := module_file(n))}


def code_of(stage):
    """The stage's module, the stage modules it takes functions from, and the library under its own imports."""
    own = ROOT / "stages" / f"{stage}.py"
    seen, todo = set(), [own]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            if path == own or "avatar_core" in path.relative_to(ROOT).parts[0]:
                todo += imported(path)
    return {str(p.relative_to(ROOT)) for p in seen if p.name != "__init__.py"} - PLUMBING


@pytest.mark.parametrize("stage", PIPELINE)
def test_code_is_listed(stage):
    listed = PIPELINE[stage]["deps"]
    missing = {c for c in code_of(stage) if not any(c == d or c.startswith(f"{d}/") for d in listed)}
    assert missing == set()


@pytest.mark.parametrize("stage", PIPELINE)
def test_parameters_are_listed(stage):
    text = (ROOT / "stages" / f"{stage}.py").read_text()
    sections = set(yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text())) - {"run"}
    used = {name for name in re.findall(r"params\.([a-z_]+)", text) if name in sections}
    assert used - set(PIPELINE[stage].get("params", [])) == set()


def test_only_evaluate_reads_the_truth():
    readers = {s for s, v in PIPELINE.items() if any(d.startswith("data/truth") for d in v["deps"])}
    assert readers == {"evaluate"}


def test_every_stage_has_metrics_and_a_contact_sheet_and_no_uncached_output():
    for name, stage in PIPELINE.items():
        assert stage["deps"] and stage["outs"] and "cache: false" not in str(stage)
        if name != "report":
            assert any("metrics.json" in m for m in stage["metrics"]), name
            assert any("contact_sheet.png" in str(p) for p in stage["plots"]), name
