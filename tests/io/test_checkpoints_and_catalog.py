"""Checkpoints prove that they are intact; catalogues are sorted, typed and stable."""

import json

import numpy as np
import pytest
import torch

from avatar_core.errors import UserError
from avatar_core.io.catalog import read_catalog, write_catalog
from avatar_core.io.checkpoints import has_checkpoint, load_checkpoint, save_checkpoint


def test_checkpoint_round_trip_and_stable_bytes(tmp_path):
    model = torch.nn.Linear(3, 4)
    for name in ("a", "b"):
        save_checkpoint(tmp_path / f"{name}.safetensors", model.state_dict(), config={"width": 4}, seed=7)
    for suffix in (".safetensors", ".json"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    tensors, sidecar = load_checkpoint(tmp_path / "a.safetensors")
    assert (
        torch.equal(tensors["weight"], model.weight)
        and sidecar["config"] == {"width": 4}
        and sidecar["seed"] == 7
    )


def test_damaged_checkpoints_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=r"a\.safetensors: expected a checkpoint, found no such file; run it"):
        load_checkpoint(path, hint="run it")
    save_checkpoint(path, {"x": np.arange(5.0)})
    assert has_checkpoint(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="SHA-256"):
        load_checkpoint(path)
    assert not has_checkpoint(path)
    save_checkpoint(path, {"x": np.arange(5.0)})
    sidecar = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**sidecar, "schema": 99}))
    with pytest.raises(UserError, match="schema"):
        load_checkpoint(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json"):
        load_checkpoint(path)


def test_nan_is_never_saved(tmp_path):
    with pytest.raises(ValueError, match="NaN"):
        save_checkpoint(tmp_path / "a.safetensors", {"x": torch.tensor([1.0, float("nan")])})
    assert list(tmp_path.iterdir()) == []


ROW = {
    "id": "b",
    "identity": "p",
    "split": "train",
    "shard": 0,
    "text": "Hallo",
    "qc": {"psnr": 27.5, "a": 1},
}


def test_catalog_round_trip_sorted_and_stable(tmp_path):
    rows = [ROW, {**ROW, "id": "a", "t_len": 50}]
    write_catalog(tmp_path / "a.parquet", rows)
    write_catalog(tmp_path / "b.parquet", reversed(rows))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    back = read_catalog(tmp_path / "a.parquet")
    assert [r["id"] for r in back] == ["a", "b"] and back[1]["qc"] == {"psnr": 27.5, "a": 1.0}
    assert back[0]["fps"] == 25.0 and back[0]["status"] == "ok" and back[0]["language"] is None


def test_catalog_refuses_mistakes(tmp_path):
    for bad in (
        {**ROW, "colour": 1},
        {k: v for k, v in ROW.items() if k != "identity"},
        {**ROW, "split": "dev"},
    ):
        with pytest.raises(ValueError):
            write_catalog(tmp_path / "a.parquet", [bad])
    with pytest.raises(ValueError, match="doubled"):
        write_catalog(tmp_path / "a.parquet", [ROW, ROW])
    with pytest.raises(UserError, match="no such file"):
        read_catalog(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="damaged"):
        read_catalog(tmp_path / "a.parquet")
