"""dvc.yaml lists everything that a stage's result depends on: code by its imports, parameters by its sections."""

import re
from pathlib import Path

import pytest
import yaml

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


def test_every_stage_has_metrics_and_a_contact_sheet_and_no_uncached_output():
    for name, stage in PIPELINE.items():
        assert stage["deps"] and stage["outs"] and "cache: false" not in str(stage)
        if name != "report":
            assert any("metrics.json" in m for m in stage["metrics"]), name
            assert any("contact_sheet.png" in str(p) for p in stage["plots"]), name
