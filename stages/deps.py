"""Which code a stage depends on, read from the imports: `python -m stages.deps` checks dvc.yaml, `--write` corrects it.

Every import is followed, lazy ones, backends in registries and other stages' modules too. Not listed is the plumbing that every
stage shares and that carries no result: command line, progress, processes, checking of parameters, errors. Data and assets stay as
dvc.yaml has them.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PIPELINE = Path("dvc.yaml")
PLUMBING = {
    *(f"avatar_core/{n}.py" for n in ("errors", "config", "backends", "progress")),
    *(f"stages/{n}.py" for n in ("common", "params", "sections", "progress", "workers")),
}
PACKAGES = ("avatar_core", "stages")
REGISTERED = re.compile(rf"((?:{'|'.join(PACKAGES)})(?:\.\w+)+):\w+")


def code_of(stage: str, root: Path = Path(".")) -> list[str]:
    """Sorted paths, relative to `root`, of the modules that `python -m stages.<stage>` can import, plumbing left out."""
    seen: set[Path] = set()
    todo = {root / "stages" / f"{stage}.py"}
    while todo:
        path = todo.pop()
        seen.add(path)
        if str(path.relative_to(root)) not in PLUMBING:
            todo |= imported_files(path, root) - seen
    return sorted({str(p.relative_to(root)) for p in seen} - PLUMBING)


def imported_files(path: Path, root: Path) -> set[Path]:
    """The project's files that one module imports anywhere in it; a package's `__init__.py` runs too, so it counts.

    Who imports a registry by its module's name can load what the "package.module:Class" strings in it name; a package that only
    lies on the way hands on none, and the registry's own package is made of them.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {m for name in names for m in _files_of(name, root) if m.parent not in path.parents}
    backends = {b for m in modules for b in _registered(m)}
    return {f for name in names | backends for f in _files_on_the_way(name, root)}


def _files_on_the_way(name: str, root: Path) -> set[Path]:
    parts = name.split(".")
    return {f for n in range(1, len(parts) + 1) for f in _files_of(".".join(parts[:n]), root)}


def _files_of(name: str, root: Path) -> set[Path]:
    """The file of the module or package `name`, if it is ours and holds code."""
    if name.split(".")[0] not in PACKAGES:
        return set()
    place = root.joinpath(*name.split("."))
    return {f for f in (place.with_suffix(".py"), place / "__init__.py") if _holds_code(f)}


def _registered(module: Path) -> set[str]:
    """Names of the modules in the registry strings of a module."""
    texts = (n.value for n in ast.walk(ast.parse(module.read_text())) if isinstance(n, ast.Constant))
    found = (REGISTERED.fullmatch(text) for text in texts if isinstance(text, str))
    return {match[1] for match in found if match}


def _holds_code(path: Path) -> bool:
    """An `__init__.py` that only has a docstring can change no result."""
    return path.is_file() and (
        path.name != "__init__.py"
        or any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)
    )


def corrected(deps: list[str], code: list[str]) -> list[str]:
    """A stage's `deps` with exactly `code` in place of the modules and code folders it lists."""
    kept = [
        d
        for d in deps
        if not d.startswith(PACKAGES) or d.startswith("avatar_core/assets") or d.endswith("csrc")
    ]
    template = ["avatar_core/assets/template.safetensors"] if "avatar_core/template/mesh.py" in code else []
    if "avatar_core/assets" in kept:
        template = []
    native = ["avatar_core/render/csrc"] if "avatar_core/render/native.py" in code else []
    worker = ["avatar_core/speech/espeak_worker.py"] if "avatar_core/speech/espeak.py" in code else []
    return sorted({*code, *worker, *native, *template, *(d for d in kept if d.startswith("avatar_core"))}) + [
        d for d in kept if not d.startswith("avatar_core")
    ]


def main() -> None:
    """Compare (or rewrite) the code dependencies in dvc.yaml; exit code 1 when they differ."""
    parser = argparse.ArgumentParser(prog="python -m stages.deps", description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="correct dvc.yaml")
    write = parser.parse_args().write
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    document: Any = yaml.load(PIPELINE)
    wrong = []
    for name, stage in document["stages"].items():
        wanted = corrected(list(stage["deps"]), code_of(name))
        if list(stage["deps"]) != wanted:
            wrong.append(name)
            stage["deps"] = wanted
    if wrong and write:
        with open(PIPELINE, "w") as file:
            yaml.dump(document, file)
    if wrong:
        print(
            f"{PIPELINE}: {'corrected' if write else 'expected other deps of'} {', '.join(wrong)}",
            file=sys.stderr,
        )
    sys.exit(1 if wrong and not write else 0)


if __name__ == "__main__":
    main()
