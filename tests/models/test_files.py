"""Files of published models: whole ones are found without the network, damaged ones are named."""

import hashlib
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from avatar_core.errors import UserError
from avatar_core.models import card
from avatar_core.models.files import (
    check_pipeline,
    check_safetensors,
    check_weights,
    find_model,
    folder_digest,
    verify_folder,
    verify_snapshot,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    """A pipeline of one network in two shards, one tokenizer and a scheduler."""
    root = tmp_path / "model"
    for part in ("net", "words", "steps"):
        (root / part).mkdir(parents=True)
    index = {
        "_class_name": "P",
        "net": ["diffusers", "N"],
        "words": ["transformers", "W"],
        "steps": ["diffusers", "S"],
    }
    (root / "model_index.json").write_text(json.dumps(index | {"safety": [None, None]}))
    (root / "net" / "config.json").write_text("{}")
    (root / "words" / "tokenizer.json").write_text('{"a": 1}')
    (root / "steps" / "scheduler_config.json").write_text('{"b": 2}')
    shards = {"a": "net-00001-of-00002.safetensors", "b": "net-00002-of-00002.safetensors"}
    for k, (name, shard) in enumerate(shards.items()):
        save_file({name: np.full((5, 3), k, np.float32)}, root / "net" / shard)
    (root / "net" / "net.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    return root


def cached(folder, cache, model="org/name", commit=COMMIT):
    """The folder as the Hugging Face cache holds it: blobs by hash, links by name."""
    root = cache / f"models--{model.replace('/', '--')}"
    for path in (p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        large = path.suffix == ".safetensors"
        name = (
            hashlib.sha256(content) if large else hashlib.sha1(b"blob %d\0" % len(content) + content)
        ).hexdigest()
        blob, link = root / "blobs" / name, root / "snapshots" / commit / path.relative_to(folder)
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return root / "snapshots" / commit


def test_a_whole_pipeline_passes(folder):
    assert check_pipeline(folder)["_class_name"] == "P"
    assert [p.name[:9] for p in check_weights(folder / "net")] == ["net-00001", "net-00002"]


def test_damage_is_named(folder):
    first, second = sorted((folder / "net").glob("*.safetensors"))
    whole = first.read_bytes()
    for damaged, found in ((whole[:-7], r"00001.*expected \d+ bytes .*found"), (whole + b"x", "found"), (b"abc", "something else"),
                           (whole[:8] + b"{" * (len(whole) - 8), "damaged header")):  # fmt: skip
        first.write_bytes(damaged)
        with pytest.raises(UserError, match=found):
            check_pipeline(folder)
    first.write_bytes(whole)
    header = whole.replace(b'"shape":[5,3]', b'"shape":[5,4]')  # says another size than its bytes have
    assert header != whole
    first.write_bytes(header)
    with pytest.raises(UserError, match="damaged header"):
        check_safetensors(first)
    first.write_bytes(whole)
    words = folder / "words"
    words.rename(folder / "other")
    with pytest.raises(UserError, match="words: expected the pipeline's words"):
        check_pipeline(folder)
    (folder / "other").rename(words)
    second.unlink()
    with pytest.raises(UserError, match=r"net-00002-of-00002\.safetensors: expected the weights that"):
        check_pipeline(folder)
    (folder / "model_index.json").write_text("[")
    with pytest.raises(UserError, match=r"model_index\.json: expected JSON of a diffusers pipeline"):
        check_pipeline(folder)


def test_pickles_and_code_are_refused(folder):
    (folder / "net" / "modeling.py").write_text("import os")
    with pytest.raises(UserError, match=r"modeling\.py: expected weights alone"):
        check_pipeline(folder)
    (folder / "net" / "modeling.py").unlink()
    for path in (folder / "net").glob("net*"):
        path.unlink()
    (folder / "net" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"expected weights as \.safetensors, found pytorch_model\.bin"):
        check_pipeline(folder)


def test_a_local_folder_needs_its_digest(folder):
    digest = folder_digest(folder)
    with pytest.raises(
        UserError, match=r"x\.sha256: expected the SHA-256 of .*, found none; `avatar models verify"
    ):
        find_model(str(folder), "", "", "x")
    assert find_model(str(folder), "", digest, "x") == folder
    verify_folder(folder, digest)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "note").write_text("not the model's")
    verify_folder(folder, digest.upper())
    (folder / "net" / "config.json").write_text("{ }")
    with pytest.raises(UserError, match="it is another model, or damaged"):
        verify_folder(folder, digest)
    with pytest.raises(
        UserError, match=r"x\.model: expected a folder or a hub id, found no folder /none/such"
    ):
        find_model("/none/such", "", digest, "x")


def test_a_hub_id_is_found_in_the_cache_at_its_commit(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        UserError, match=r"x\.revision: expected the 40 digits of a commit of org/name .*found none$"
    ):
        find_model("org/name", "", "", "x")
    with pytest.raises(
        UserError, match=f"found none of that revision; hf download org/name --revision {COMMIT}"
    ):
        find_model("org/name", COMMIT, "", "x")
    snapshot = cached(folder, tmp_path / "hub")
    assert find_model("org/name", COMMIT, "", "x") == snapshot
    with pytest.raises(UserError, match=f"found main; the cache holds {COMMIT}"):
        find_model("org/name", "main", "", "x")
    check_pipeline(snapshot)
    verify_snapshot(snapshot)


@pytest.mark.parametrize("name", ["net/net-00002-of-00002.safetensors", "words/tokenizer.json"])
def test_a_changed_byte_in_the_cache_is_seen(folder, tmp_path, name):
    snapshot = cached(folder, tmp_path / "hub")
    blob = (snapshot / name).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: expected the hash"):
        verify_snapshot(snapshot)


def test_a_missing_extra_is_named_with_its_command():
    with pytest.raises(
        UserError, match=r"^x: .*extra `models`, found no no_such_module; pip install 'audioavatar\[models\]'"
    ):
        card.need_packages("x", "models", "json", "no_such_module")
