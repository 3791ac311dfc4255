"""Comparing runs by their dvc.lock: outputs count, what they were made from does not."""

from __future__ import annotations

import sys

import pytest
import yaml

from avatar_core.errors import UserError
from stages.lock import differing_outputs, main


def write(path, outs, code="1"):
    stage = {
        "deps": [{"path": "code.py", "md5": code}],
        "outs": [{"path": p, "md5": m} for p, m in outs.items()],
    }
    path.write_text(yaml.safe_dump({"schema": "2.0", "stages": {"fit@0": stage, "frozen": {"cmd": "true"}}}))
    return path


def test_moved_code_changes_nothing_and_changed_outputs_are_named(tmp_path, monkeypatch, capsys):
    before = write(tmp_path / "a", {"data/x": "1", "data/y": "2", "data/gone": "3"})
    moved = write(tmp_path / "b", {"data/x": "1", "data/y": "2", "data/gone": "3"}, code="2")
    other = write(tmp_path / "c", {"data/x": "1", "data/y": "9", "data/new": "3"})
    assert differing_outputs(before, moved) == []
    assert differing_outputs(before, other) == ["data/gone", "data/new", "data/y"]
    for after, code in ((moved, 0), (other, 1), (tmp_path / "none", 2)):
        monkeypatch.setattr(sys, "argv", ["stages.lock", str(before), str(after)])
        assert main() == code
    assert "none: expected a dvc.lock" in capsys.readouterr().err


def test_what_is_no_lock_is_named(tmp_path):
    (tmp_path / "params.yaml").write_text("run: {seed: 7}\n")
    with pytest.raises(UserError, match=r"params\.yaml: expected a dvc\.lock"):
        differing_outputs(tmp_path / "params.yaml", tmp_path / "params.yaml")
