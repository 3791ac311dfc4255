"""Stores: exact round trips, equal bytes, and no silent fill values for what is gone or damaged."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_core.errors import UserError
from avatar_core.io.store import Store, Trajectories, write_arrays, write_trajectories


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return [(str(p.relative_to(folder)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


def make(path, lengths=(21, 40, 3), n=50, window=16, seed=0):
    rng = np.random.default_rng(seed)
    clips = {f"clip-{k}": rng.normal(size=(t, n, 3)).astype(np.float32) for k, t in enumerate(lengths)}
    with write_trajectories(
        path, {"mean_offset": ("float16", n, 3), "color": ("float32", n, 3)}, window=window
    ) as writer:
        for name, values in clips.items():
            writer.append(name, mean_offset=values, color=values)
    return clips


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), window=st.integers(1, 20))
def test_trajectories_round_trip_for_any_clip_lengths(tmp_path_factory, lengths, window):
    path = tmp_path_factory.mktemp("store") / "t.zarr"
    clips = make(path, lengths, n=7, window=window)
    store = Trajectories(path)
    assert list(store.clips) == sorted(clips) or set(store.clips) == set(clips)
    for name, values in clips.items():
        read = store.read_clip(name)
        np.testing.assert_array_equal(read["mean_offset"], values.astype(np.float16))
        np.testing.assert_array_equal(read["color"], values)
        part = store.read_clip(name, 1, 3)
        np.testing.assert_array_equal(part["color"], values[1:3])


def test_equal_arrays_give_equal_bytes(tmp_path):
    make(tmp_path / "a.zarr")
    make(tmp_path / "b.zarr")
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr")
    make(tmp_path / "c.zarr", seed=1)
    assert digest(tmp_path / "a.zarr") != digest(tmp_path / "c.zarr")


def test_nested_arrays_and_nan_survive(tmp_path):
    tracks = np.full((30, 5, 2), np.nan, np.float32)
    tracks[3] = 1.5
    masks = np.zeros((30, 8, 8), np.uint8)
    write_arrays(
        tmp_path / "a.zarr", {"tracks/x": tracks, "masks/x": masks, "n": np.asarray(3)}, {"note": "n"}
    )
    store = Store(tmp_path / "a.zarr")
    assert store.names() == ["masks/x", "n", "tracks/x"] and store.attrs["note"] == "n" and "masks/x" in store
    np.testing.assert_array_equal(Store(tmp_path / "a.zarr").read("tracks/x"), tracks)
    np.testing.assert_array_equal(store.read("masks/x", 4, 9), masks[4:9])
    assert store.read("n").tolist() == [3]


def chunk_files(path):
    return sorted(p for p in (path / "mean_offset" / "c").rglob("*") if p.is_file())


def test_deleted_chunk_is_named(tmp_path):
    make(tmp_path / "a.zarr")
    opened = Trajectories(tmp_path / "a.zarr")
    victim = chunk_files(tmp_path / "a.zarr")[1]
    victim.unlink()
    with pytest.raises(UserError, match=str(victim)):
        opened.read_clip("clip-0")
    with pytest.raises(UserError, match=str(victim)):
        Trajectories(tmp_path / "a.zarr")


@pytest.mark.parametrize("where", [0, 40, -1])
def test_flipped_bit_is_named(tmp_path, where):
    make(tmp_path / "a.zarr")
    victim = chunk_files(tmp_path / "a.zarr")[1]
    data = bytearray(victim.read_bytes())
    data[where] ^= 4
    victim.write_bytes(bytes(data))
    store = Trajectories(tmp_path / "a.zarr")  # same size: only reading can tell
    with pytest.raises(UserError, match=str(victim)):
        store.read_clip("clip-0")


def test_truncated_chunk_and_damaged_metadata_are_named(tmp_path):
    make(tmp_path / "a.zarr")
    victim = chunk_files(tmp_path / "a.zarr")[0]
    victim.write_bytes(victim.read_bytes()[:-7])
    with pytest.raises(UserError, match=str(victim)):
        Store(tmp_path / "a.zarr")
    make(tmp_path / "b.zarr")
    (tmp_path / "b.zarr" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="metadata"):
        Store(tmp_path / "b.zarr")
    with pytest.raises(UserError, match="no such folder"):
        Store(tmp_path / "nothing.zarr")
    (tmp_path / "c.zarr").mkdir()
    with pytest.raises(UserError, match="unfinished or foreign"):
        Store(tmp_path / "c.zarr")


def test_failed_writer_leaves_nothing(tmp_path):
    with (
        pytest.raises(RuntimeError),
        write_trajectories(tmp_path / "a.zarr", {"m": ("float16", 4, 3)}, window=2) as writer,
    ):
        writer.append("x", m=np.zeros((5, 4, 3)))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_nan_is_never_stored(tmp_path):
    with (
        pytest.raises(ValueError, match="NaN"),
        write_trajectories(tmp_path / "a.zarr", {"m": ("float16", 4, 3)}) as writer,
    ):
        writer.append("x", m=np.full((5, 4, 3), np.nan))
    with (
        pytest.raises(ValueError, match="NaN"),
        write_trajectories(tmp_path / "a.zarr", {"m": ("float16", 4, 3)}) as writer,
    ):
        writer.append("x", m=np.full((5, 4, 3), 1e6))  # infinite in half precision
    assert list(tmp_path.iterdir()) == []
