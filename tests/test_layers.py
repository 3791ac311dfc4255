"""Which way imports go: no circle, none upward, no stage from another stage, nothing from the recipes."""

from pathlib import Path

import pytest

from stages.common import STAGES
from stages.deps import imported_files

ROOT = Path(__file__).resolve().parents[1]
# A room may import rooms of the floors below it. `avatar_core/render` and `flows` included; top-level modules by their names.
FLOORS = (
    ("clock", "errors", "progress"),
    ("config", "device", "ranks"),
    ("backends", "geometry", "networks", "render"),
    ("io", "template"),
    ("models", "particles"),
    ("audio", "perception", "speech", "training"),
    ("metrics", "procedural", "score"),
    ("embed", "fit", "identities", "personalise", "teacher"),
    ("generator", "ingest"),
    ("cli_ingest", "cli_pipeline", "cli_terminal", "distill", "speak"),
    ("cli_options", "recipes"),
    ("cli", "stages"),
    ("flows",),
)


def modules():
    return sorted(p for top in ("avatar_core", "stages", "flows") for p in (ROOT / top).rglob("*.py"))


def room(path):
    if path == ROOT / "avatar_core" / "__init__.py":
        return "clock"
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "avatar_core" else parts[0]


def imports(path):
    """What a module imports; that its own packages' `__init__.py` runs first is no choice of the module."""
    return {
        d for d in imported_files(path, ROOT) if not (d.name == "__init__.py" and d.parent in path.parents)
    }


IMPORTS = {p: imports(p) for p in modules()}


def test_no_circle():
    left = {p: set(d) for p, d in IMPORTS.items()}
    while free := [p for p, d in left.items() if not d & left.keys()]:
        for p in free:
            del left[p]
    assert not left, f"these import each other in a circle: {sorted(str(p.relative_to(ROOT)) for p in left)}"


def test_no_import_goes_up():
    floor = {name: k for k, names in enumerate(FLOORS) for name in names}
    wrong = [
        f"{p.relative_to(ROOT)} imports {d.relative_to(ROOT)}"
        for p, found in IMPORTS.items()
        for d in found
        if room(p) != room(d) and floor[room(d)] >= floor[room(p)]
    ]
    assert wrong == []


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage):
    others = {ROOT / "stages" / f"{name}.py" for name in STAGES if name != stage}
    seen, todo = set(), {ROOT / "stages" / f"{stage}.py"}
    while todo:
        path = todo.pop()
        seen.add(path)
        todo |= IMPORTS[path] - seen
    assert seen & others == set()


def test_nothing_imports_the_recipes():
    users = {
        p.relative_to(ROOT)
        for p, found in IMPORTS.items()
        if room(p) != "recipes" and any(room(d) == "recipes" for d in found)
    }
    assert users == set()
