"""The drawings in docs/architecture.md are those of dvc.yaml and of the imports; the page names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from stages.graph import PAGE, drawn, filled, rooms, stage_graph

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_drawings_are_current():
    page = (ROOT / PAGE).read_text()
    assert page == filled(page, drawn(ROOT)), "run python -m stages.graph --write"


def test_an_arrow_goes_from_who_writes_to_who_reads():
    pipeline = {
        "a": {"deps": ["data/list.yaml"], "outs": ["data/a"]},
        "b": {"deps": ["data/a", "avatar_core/a.py"], "outs": ["data/b/shard-${item.shard}"], "matrix": {}},
        "c": {"deps": ["data/b/shard-${item.shard}"], "outs": ["data/reports/index.html"]},
    }
    arrows = [line.strip() for line in stage_graph(pipeline).splitlines() if "-->" in line]
    assert arrows == ["a --> b", "b --> c"]


def test_every_room_says_what_it_holds():
    _, about = rooms(ROOT)
    assert [name for name, text in about.items() if not text] == []


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="stages"):
        filled("nothing here", {"stages": "drawing"})


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda p: p.name)
def test_links_and_modules_of_a_page_exist(page):
    text = page.read_text()
    targets = [t.split("#")[0] for t in re.findall(r"\]\(([^)]+)\)", text) if not t.startswith("http")]
    modules = re.findall(r"`(?:python -m )?((?:avatar_core|stages|flows|benchmarks)(?:\.[a-z_]+)+)`", text)
    missing = [t for t in targets if not (page.parent / t).exists()]
    for name in modules:
        path = ROOT.joinpath(*name.split("."))
        if not (path.is_dir() or path.with_suffix(".py").is_file()):
            missing.append(name)
    assert missing == []


def test_every_stage_is_on_the_page():
    page = (ROOT / PAGE).read_text()
    walk = page.split("## The walk of a clip")[1].split("## The walk of a sound")[0]
    stages = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    assert {name for name in stages if f"| `{name}` |" not in walk} == {"report"}


def test_names_in_the_glossary_are_names_in_the_code():
    names = set(re.findall(r"`([A-Za-z_]+)`", (ROOT / "docs" / "glossary.md").read_text()))
    files = [
        *ROOT.glob("*.yaml"),
        *(p for top in ("avatar_core", "stages") for p in (ROOT / top).rglob("*.py")),
    ]
    words = set(re.findall(r"\w+", " ".join(path.read_text() for path in files)))
    assert len(names) > 10 and names - words == set()
