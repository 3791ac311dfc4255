"""dvc.yaml lists everything that a stage's result depends on: code by its imports, parameters by its sections."""

import re
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from dvc.repo.artifacts import check_name_format

from stages.artifacts import Artifacts
from stages.deps import code_of, corrected

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("stage", PIPELINE)
def test_code_is_listed_exactly(stage):
    listed = PIPELINE[stage]["deps"]
    assert listed == corrected(listed, code_of(stage, ROOT)), "run python -m stages.deps --write"


def test_editing_a_metric_or_a_recipe_runs_what_it_must():
    def direct(prefix):
        return {s for s, v in PIPELINE.items() if any(d.startswith(prefix) for d in v["deps"])}

    assert direct("avatar_core/recipes") == set()
    assert direct("avatar_core/metrics/suite.py") == {"evaluate"}


@pytest.mark.parametrize("stage", PIPELINE)
def test_parameters_are_listed(stage):
    text = (ROOT / "stages" / f"{stage}.py").read_text()
    sections = set(yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text())) - {"run"}
    used = {name for name in re.findall(r"params\.([a-z_]+)", text) if name in sections}
    assert used - set(PIPELINE[stage].get("params", [])) == set()


def test_only_evaluate_reads_the_truth():
    readers = {s for s, v in PIPELINE.items() if any(d.startswith("data/truth") for d in v["deps"])}
    assert readers == {"evaluate"}


@pytest.mark.parametrize("stage", sorted(set(PIPELINE) - {"report"}))
def test_a_headline_is_the_metric_and_details_lie_beside_it(stage):
    (metrics,) = PIPELINE[stage]["metrics"]
    assert metrics.endswith("/metrics.json")
    assert metrics.replace("metrics.json", "details.json") in PIPELINE[stage]["outs"]
    assert any("contact_sheet.png" in str(p) for p in PIPELINE[stage]["plots"])


def test_every_stage_has_dependencies_and_outputs_in_the_cache():
    for stage in PIPELINE.values():
        assert stage["deps"] and stage["outs"] and "cache" not in str([stage["outs"], stage.get("metrics")])


def test_the_student_is_a_model_of_the_registry():
    """As DVC reads it: `dvc artifacts get`, Studio and GTO find the student by this name."""
    artifacts = Repo(str(ROOT)).artifacts.read()["dvc.yaml"]
    (name,) = artifacts
    check_name_format(name)
    student = artifacts[name]
    assert student.type == "model" and student.desc and student.labels
    assert student.path == str(Artifacts(Path("data"), [0]).student_file)
    assert any(student.path.startswith(f"{out}/") for out in PIPELINE["distill"]["outs"])


def test_registered_backends_are_code_of_who_imports_the_registry(tmp_path):
    modules = {
        "avatar_core/zoo/__init__.py": 'BACKENDS = {"cat": "avatar_core.zoo.cat:Cat"}',
        "avatar_core/zoo/cat.py": "from avatar_core.zoo.fur import FUR\nfrom avatar_core import zoo",
        "avatar_core/zoo/fur.py": "FUR = 1",
        "stages/params.py": "from avatar_core.zoo import BACKENDS",
        "stages/feed.py": "from stages.params import BACKENDS\nfrom avatar_core.zoo import BACKENDS",
        "stages/brush.py": "from stages.params import BACKENDS\nfrom avatar_core.zoo.fur import FUR",
    }
    for name, text in modules.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    on_the_way = ["avatar_core/zoo/__init__.py", "avatar_core/zoo/fur.py"]
    assert code_of("feed", tmp_path) == sorted([*on_the_way, "avatar_core/zoo/cat.py", "stages/feed.py"])
    assert code_of("brush", tmp_path) == [*on_the_way, "stages/brush.py"]
