"""params.yaml: every mistake is one line that names the key; profiles are complete, valid and restorable."""

import copy
import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from avatar_core.config import fields_of
from avatar_core.errors import UserError
from avatar_core.particles.layout import REGIONS
from stages.params import Params, load_params, parse_params
from stages.profiles import NAMES, active_profile, profile_values, use_profile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def laptop():
    return yaml.safe_load((ROOT / "params" / "laptop.yaml").read_text())


def set_key(values, key, value):
    changed = copy.deepcopy(values)
    *path, last = key.split(".")
    node = changed
    for name in path:
        node = node[name]
    node[last] = value
    return changed


def test_laptop_profile_equals_the_defaults_and_is_what_is_committed(laptop):
    assert parse_params(laptop) == Params()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.sead", 1),
        ("extra", {}),
        ("run.seed", "abc"),
        ("run.seed", True),
        ("run.seed", 1.5),
        ("run.seed", -1),
        ("run.seed", None),
        ("run.shards", 3),
        ("run.shards", [0, "x"]),
        ("run.shards", [0, 1.5]),
        ("run.shards", [1, 2]),
        ("run.shards", []),
        ("run.shards", list(range(14))),
        ("run.workers", 0),
        ("identities.train", -3),
        ("identities.backend", "magic"),
        ("identities.backend", "folder"),
        ("speech.espeak.languages", "en"),
        ("speech.espeak.languages", ["${oc.env:HOME}"]),
        ("speech.max_seconds", float("inf")),
        ("fit.weights.l1", float("nan")),
        ("fit.weights", 3),
        ("fit.weights.arap", "much"),
        ("generator.heads", 5),
        ("teacher.procedural.supersample", 9),
        ("teacher.backends", {"procedural": -1}),
        ("perception.optical_flow.points", -4),
    ],
)
def test_mistakes_are_one_line_naming_file_key_expected_and_found(laptop, key, value):
    with pytest.raises(UserError) as caught:
        parse_params(set_key(laptop, key, value), "my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ") and "\n" not in message
    assert "expected" in message and "found" in message
    assert key in message or (key == "identities.backend" and "identities.folder" in message)


def test_missing_section_file_and_broken_yaml(laptop, tmp_path):
    del laptop["fit"]
    with pytest.raises(UserError, match=r"fit: expected a section, found none"):
        parse_params(laptop)
    with pytest.raises(UserError, match="no such file"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("run: [1, 2\nfit: 3\n")
    with pytest.raises(UserError, match="line"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("just words")
    with pytest.raises(UserError, match="sections"):
        load_params(tmp_path / "params.yaml")


@pytest.fixture
def project(tmp_path):
    shutil.copytree(ROOT / "params", tmp_path / "params")
    shutil.copy(ROOT / "params" / "laptop.yaml", tmp_path / "params.yaml")
    return tmp_path


def test_profiles_can_be_used_and_undone(project):
    before = (project / "params.yaml").read_bytes()
    for name in NAMES:
        use_profile(name, project)
        assert active_profile(project) == (name, {})
        values = load_params(project / "params.yaml")
        assert values == parse_params(profile_values(name, project))
    assert load_params(project / "params.yaml").identities.train > 100  # cluster came last
    use_profile("laptop", project)
    assert (project / "params.yaml").read_bytes() == before
    with pytest.raises(UserError, match="expected one of smoke"):
        use_profile("huge", project)


def test_own_changes_are_shown(project):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("seed: 7", "seed: 8"))
    assert active_profile(project) == (None, {"run.seed": (7, 8)})


def test_use_removes_shards_that_the_profile_lacks(project):
    for shard in range(4):
        (project / "data" / "fit" / f"shard-{shard}").mkdir(parents=True)
        (project / "data" / "truth" / f"shard-{shard}.zarr").mkdir(parents=True)
    removed = use_profile("laptop", project)
    assert len(removed) == 4
    assert sorted(p.name for p in (project / "data" / "fit").iterdir()) == ["shard-0", "shard-1"]


CODE = "\n".join(p.read_text() for top in ("avatar_core", "stages") for p in (ROOT / top).rglob("*.py"))


def _sections(values, prefix=""):
    """Every key that params.yaml may have, sections of all backends among them."""
    for name in fields_of(type(values)):
        value = getattr(values, name)
        if dataclasses.is_dataclass(value):
            yield from _sections(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
    for backend in getattr(values, "chosen", {}).values():
        yield from _sections(backend, prefix)


@pytest.mark.parametrize("key", sorted(set(_sections(Params()))))
def test_every_key_has_a_reader(key):
    """A key that no code reads by its name is a promise that nothing keeps."""
    name = key.rpartition(".")[2]
    assert re.search(rf"\.{name}\b", CODE) or name in REGIONS  # budgets are read region by region


def test_reading_parameters_imports_no_network():
    """Every stage and each of its workers starts with this: seconds of imports would be paid a hundred times a run."""
    code = (
        "import sys; from stages.params import load_params; load_params(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
