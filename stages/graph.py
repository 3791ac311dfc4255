"""The drawings in docs/architecture.md: `python -m stages.graph` prints them, `--write` puts them there.

The stages' graph is read from dvc.yaml, the layers of the code from the imports, so neither can differ from what runs.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from avatar_core.io.atomic import write_text
from stages.deps import imported_files

PAGE = Path("docs/architecture.md")
PACKAGES = ("avatar_core", "stages", "flows")


def stage_graph(pipeline: Mapping[str, Any]) -> str:
    """A Mermaid flowchart of dvc.yaml: an arrow from each stage to those that read its outputs (reports left out)."""
    lines = ["```mermaid", "flowchart LR"]
    for name, stage in pipeline.items():
        lines.append(f"  {name}[{name}{' x shard' if 'matrix' in stage else ''}]")
    maker = {_folder(out): name for name, stage in pipeline.items() for out in stage["outs"]}
    maker.pop("data/reports")  # every stage's report is read by the last one
    for name, stage in pipeline.items():
        read = {maker[folder] for folder in map(_folder, stage["deps"]) if folder in maker}
        lines += [f"  {source} --> {name}" for source in pipeline if source in read]
    return "\n".join([*lines, "```"])


def stage_table(pipeline: Mapping[str, Any]) -> str:
    """One row a stage: what it makes, what it reads and writes below data/, the parameters that it depends on."""
    lines = ["| stage | makes | reads `data/` | writes `data/` | params |", "|---|---|---|---|---|"]
    for name, stage in pipeline.items():
        read = [
            _below(d) for d in stage["deps"] if d.startswith("data/") and not d.startswith("data/reports")
        ]
        written = [_below(o) for o in stage["outs"]]
        params = [p for p in stage["params"] if not p.startswith("run.")]
        cells = (_code(read), _code(written), _code(params))
        lines.append(f"| `{name}` | {stage['desc']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def layer_table(root: Path) -> str:
    """Rooms of the code by floor, highest first: a room stands one floor above the highest room that it imports."""
    uses, about = rooms(root)
    floors: dict[str, int] = {}
    while len(floors) < len(uses):
        free = [name for name in uses if name not in floors and uses[name] <= floors.keys()]
        if not free:
            raise ValueError(f"rooms import each other in a circle: {sorted(uses.keys() - floors.keys())}")
        floors |= {name: 1 + max((floors[u] for u in uses[name]), default=-1) for name in free}
    lines = ["| floor | room | what it holds | imports |", "|---|---|---|---|"]
    for name in sorted(uses, key=lambda n: (-floors[n], n)):
        lines.append(f"| {floors[name]} | `{name}` | {about[name]} | {', '.join(sorted(uses[name]))} |")
    return "\n".join(lines)


def rooms(root: Path) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Rooms (packages, and modules of the library's top level): those each imports, and the first sentence of its docstring."""
    uses: dict[str, set[str]] = {}
    about: dict[str, str] = {}
    for path in sorted(p for top in PACKAGES for p in (root / top).rglob("*.py")):
        name = room(path, root)
        if name is None:
            continue
        uses.setdefault(name, set())
        for found in imported_files(path, root):
            other = room(found, root)
            if other not in (None, name):
                uses[name].add(other)
        if path.stem in ("__init__", name) and name not in about:
            text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
            about[name] = text.split(". ")[0].rstrip(".")
    return uses, about


def room(path: Path, root: Path) -> str | None:
    """avatar_core/fit/nodes.py -> fit; avatar_core/clock.py -> clock; stages/... -> stages; None for avatar_core itself."""
    parts = path.relative_to(root).with_suffix("").parts
    if parts[0] != "avatar_core":
        return parts[0]
    return None if parts[1] == "__init__" else parts[1]


def drawn(root: Path) -> dict[str, str]:
    """Marker -> what stands between `<!-- marker -->` and `<!-- /marker -->`."""
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    return {"stages": f"{stage_graph(pipeline)}\n\n{stage_table(pipeline)}", "layers": layer_table(root)}


def filled(page: str, blocks: Mapping[str, str]) -> str:
    """The page with its marked blocks replaced. ValueError when a marker is missing."""
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if page.count(start) != 1 or page.count(end) != 1:
            raise ValueError(f"{PAGE}: expected the markers {start} and {end} once each")
        before, rest = page.split(start)
        page = f"{before}{start}\n{block}\n{end}{rest.split(end)[1]}"
    return page


def _folder(path: str) -> str:
    """data/fit/shard-0 -> data/fit; the stores of data/truth count as that folder too."""
    return "/".join(path.split("/")[:2])


def _below(path: str) -> str:
    return path.removeprefix("data/").replace("${item.shard}", "K")


def _code(values: list[str]) -> str:
    return ", ".join(f"`{v}`" for v in values)


def main() -> int:
    """Print the drawings, write them into docs/architecture.md, or say whether it has them; exit code 1 when not."""
    parser = argparse.ArgumentParser(prog="python -m stages.graph", description=main.__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help=f"into {PAGE}")
    what.add_argument("--check", action="store_true", help=f"compare with {PAGE}")
    arguments = parser.parse_args()
    root = Path(".").resolve()
    blocks = drawn(root)
    if not (arguments.write or arguments.check):
        print("\n\n".join(blocks.values()))
        return 0
    committed = (root / PAGE).read_text()
    current = filled(committed, blocks)
    if arguments.write:
        write_text(root / PAGE, current)
    elif current != committed:
        print(f"{PAGE}: expected other drawings; run python -m stages.graph --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
