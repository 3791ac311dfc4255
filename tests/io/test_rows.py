"""Arrays read where they are sliced: the same values, damage named, and no more memory for more of them."""

from copy import deepcopy

import numpy as np
import pytest

from avatar_core.errors import UserError
from avatar_core.io import rows as module
from avatar_core.io.rows import Rows
from avatar_core.io.store import Store, array_writer, write_arrays


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a/long": rng.normal(size=(23, 3, 2)).astype(np.float32),
        "flat": rng.integers(0, 99, 11).astype(np.uint8),
        "none": np.zeros((5, 0, 2), np.float32),
    }
    write_arrays(tmp_path / "s.zarr", arrays, chunks={"a/long": (4, 3, 2), "flat": (3,)})
    return Store(tmp_path / "s.zarr"), arrays


def test_slices_are_those_of_the_array(store):
    for name, array in store[1].items():
        rows = deepcopy(Rows(store[0], name))
        assert rows.shape == array.shape and len(rows) == len(array) and rows.dtype == array.dtype
        for part in (
            slice(None),
            slice(3, 9),
            slice(4, 8),
            slice(-2, None),
            slice(5, 5),
            slice(0, 99),
            slice(None, None, 3),
        ):
            np.testing.assert_array_equal(rows[part], array[part])
        np.testing.assert_array_equal(rows[4], array[4])
        np.testing.assert_array_equal(rows[-1], array[-1])
        np.testing.assert_array_equal(np.asarray(rows, np.float64), array)
        with pytest.raises(IndexError):
            rows[len(array)]


def test_damage_is_named(store):
    rows, chunk = Rows(store[0], "a/long"), store[0].path / "a" / "long" / "c" / "2" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    np.testing.assert_array_equal(rows[:8], store[1]["a/long"][:8])
    with pytest.raises(UserError, match="c/2/0/0: expected an intact chunk"):
        rows[8]
    chunk.unlink()
    with pytest.raises(UserError, match="c/2/0/0: expected a chunk"):
        rows[8]
    with pytest.raises(UserError, match="expected an array 'b'"):
        Rows(store[0], "b")


def test_what_is_kept_has_a_bound_and_is_not_read_twice(store, monkeypatch):
    monkeypatch.setattr(module, "CACHE_BYTES", 3 * 4 * 3 * 2 * 4)
    cache = module._Chunks()
    monkeypatch.setattr(module, "_chunks", cache)
    rows, read = Rows(store[0], "a/long"), []
    monkeypatch.setattr(Rows, "chunk", lambda self, n, old=Rows.chunk: read.append(n) or old(self, n))
    for k in (0, 1, 2, 0, 9, 13, 0):
        rows[k]
    assert read == [0, 2, 3] and len(cache.kept) == 3
    rows[17], rows[0], rows[9]
    assert read == [0, 2, 3, 4, 2] and cache.bytes == module.CACHE_BYTES == sum(
        c.nbytes for c in cache.kept.values()
    )


def test_a_store_written_array_by_array_is_the_same(store, tmp_path):
    with array_writer(tmp_path / "again.zarr") as add:
        for name in reversed(sorted(store[1])):
            add(name, store[1][name])
    write_arrays(tmp_path / "once.zarr", store[1])
    again, once = tmp_path / "again.zarr", tmp_path / "once.zarr"
    files = {p.relative_to(once) for p in once.rglob("*") if p.is_file()}
    assert files == {p.relative_to(again) for p in again.rglob("*") if p.is_file()}
    assert all((again / f).read_bytes() == (once / f).read_bytes() for f in files)
