"""Array stores: zarr v3 directories written whole by one writer, read only after the sizes of all files have been checked.

zarr reads a missing chunk as its fill value and would train on it; here each store ends with `manifest.json` (size of every file),
written last, and each chunk carries a crc32c, so a deleted or corrupted chunk is a `UserError` naming its file. Stores hold no
times and no host names: equal arrays give equal bytes. The zip store of zarr is not used because it stamps its entries.

T frames, N particles, C components; `trajectories`: all clips of a shard concatenated along time, chunk = training window.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.codecs
from numcodecs import blosc  # pyright: ignore
from numpy.typing import DTypeLike
from zarr.storage import LocalStore

from avatar_core.errors import UserError
from avatar_core.io.atomic import atomic_directory

SCHEMA = 1
MANIFEST = "manifest.json"
CHUNK_BYTES = 4 << 20


@contextmanager
def _new_store(path: Path, attrs: Mapping[str, Any]) -> Iterator[zarr.Group]:
    """A zarr group in a temporary directory that becomes `path`, manifest and all, when the block ends well."""
    blosc.set_nthreads(1)
    with atomic_directory(path) as folder:
        group = zarr.open_group(LocalStore(folder), mode="w", zarr_format=3)
        group.attrs.update({"schema": SCHEMA, **attrs})
        yield group
        files = {
            str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()
        }
        (folder / MANIFEST).write_text(
            json.dumps({"schema": SCHEMA, "files": files}, indent=1, sort_keys=True)
        )


def _create(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: DTypeLike, chunks: tuple[int, ...]
) -> zarr.Array:
    dtype = np.dtype(dtype)
    if dtype.kind not in "fiub":
        raise ValueError(f"array {name!r}: expected numbers, found dtype {dtype}")
    codec = zarr.codecs.BloscCodec(
        typesize=dtype.itemsize, cname="zstd", clevel=3, shuffle=zarr.codecs.BloscShuffle.bitshuffle
    )
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        compressors=[codec, zarr.codecs.Crc32cCodec()],
        fill_value=float("nan") if dtype.kind == "f" else 0,
        config={"write_empty_chunks": True},
    )


@contextmanager
def array_writer(
    path: str | os.PathLike, attrs: Mapping[str, Any] | None = None
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """`with array_writer(path) as add: add(name, array)`: one array after the other, so that none waits in memory for the rest."""
    with _new_store(Path(path), attrs or {}) as group:
        yield lambda name, array: _add(group, name, array)


def _add(group: zarr.Group, name: str, array: np.ndarray, chunks: Sequence[int] | None = None) -> None:
    array = np.ascontiguousarray(array)  # a scalar becomes (1,)
    _create(group, name, array.shape, array.dtype, tuple(chunks or _auto_chunks(array)))[...] = array


def write_arrays(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    attrs: Mapping[str, Any] | None = None,
    chunks: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write a whole store at once. Names may be nested ("masks/clip"); `chunks` by name, else about 4 MB along the first axis."""
    with _new_store(Path(path), attrs or {}) as group:
        for name in sorted(arrays):
            _add(group, name, arrays[name], (chunks or {}).get(name))


def _auto_chunks(array: np.ndarray) -> tuple[int, ...]:
    row = max(1, array[:1].nbytes)
    return (max(1, min(len(array), CHUNK_BYTES // row)), *(max(1, n) for n in array.shape[1:]))


class Store:
    """A finished store, opened for verified reading."""

    def __init__(self, path: str | os.PathLike) -> None:
        """Raises UserError: no such store, damaged metadata, files missing or of another size than when written."""
        self.path = Path(path)
        if not (self.path / MANIFEST).is_file():
            found = "an unfinished or foreign folder" if self.path.is_dir() else "no such folder"
            raise UserError(f"{self.path}: expected an array store with {MANIFEST}, found {found}")
        try:
            self.files: dict[str, int] = json.loads((self.path / MANIFEST).read_text())["files"]
            for name, size in self.files.items():
                self._check_file(name, size)
            self.group = zarr.open_group(LocalStore(self.path, read_only=True), mode="r", zarr_format=3)
            self.attrs: dict[str, Any] = dict(self.group.attrs)
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UserError(
                f"{self.path}: expected intact store metadata, found damaged text ({error})"
            ) from None
        if self.attrs.get("schema") != SCHEMA:
            raise UserError(
                f"{self.path}: expected store schema {SCHEMA}, found {self.attrs.get('schema')!r}"
            )

    def _check_file(self, name: str, size: int) -> None:
        file = self.path / name
        if not file.is_file():
            raise UserError(
                f"{file}: expected a chunk of {size} bytes, found no such file; make the store again"
            )
        if file.stat().st_size != size:
            raise UserError(
                f"{file}: expected {size} bytes, found {file.stat().st_size}; make the store again"
            )

    def names(self) -> list[str]:
        """All array names, nested ones with slashes, sorted."""
        suffix = "/zarr.json"
        groups = {f.removesuffix(suffix) for f in self.files if f.endswith(suffix)}
        return sorted(name for name in groups if isinstance(self.group.get(name), zarr.Array))

    def __contains__(self, name: str) -> bool:
        return f"{name}/zarr.json" in self.files

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array. Raises UserError when there is none of that name."""
        return tuple(self._array(name).shape)

    def layout(self, name: str) -> tuple[tuple[int, ...], np.dtype, int]:
        """Shape, dtype and rows a chunk of an array that is cut into chunks along its first axis alone."""
        array = self._array(name)
        assert array.chunks[1:] == tuple(max(1, n) for n in array.shape[1:]), (
            f"{name}: chunks of {array.chunks}"
        )
        return tuple(array.shape), array.dtype, array.chunks[0]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start..stop of array `name`. Raises UserError when the array is absent or a chunk it needs is damaged."""
        array = self._array(name)
        stop = array.shape[0] if stop is None else min(stop, array.shape[0])
        return self._guard(name, lambda: np.asarray(array[start:stop]), start, stop)

    def _array(self, name: str) -> zarr.Array:
        if name not in self:
            raise UserError(f"{self.path}: expected an array {name!r}, found none of that name")
        array = self.group[name]
        assert isinstance(array, zarr.Array), f"{name} is a group"
        return array

    def _guard(self, name: str, read: Callable[[], np.ndarray], start: int, stop: int) -> np.ndarray:
        # The files may have changed since opening: look again at the ones this read needs.
        for file, size in self._chunk_files(name, start, stop):
            self._check_file(file, size)
        try:
            return read()
        except (ValueError, RuntimeError, OSError) as error:
            culprit = self._find_damage(name, start, stop)
            raise UserError(
                f"{culprit}: expected an intact chunk, found {error}; make the store again"
            ) from None

    def _chunk_files(self, name: str, start: int, stop: int) -> list[tuple[str, int]]:
        array = self._array(name)
        along = [range(-(-n // max(1, step))) for n, step in zip(array.shape, array.chunks, strict=True)]
        along[0] = along[0][start // array.chunks[0] : max(start, stop - 1) // array.chunks[0] + 1]
        files = ("/".join((name, "c", *map(str, place))) for place in itertools.product(*along))
        return [(file, self.files[file]) for file in files if file in self.files]

    def _find_damage(self, name: str, start: int, stop: int) -> Path:
        array = self._array(name)
        window = array.chunks[0]
        for file, _ in self._chunk_files(name, start, stop):
            k = int(file.removeprefix(f"{name}/c/").split("/")[0])
            try:
                array[k * window : (k + 1) * window]
            except (ValueError, RuntimeError, OSError):
                return self.path / file
        return self.path / name


TRAJECTORY_ATTRS: dict[str, Any] = {
    "fps": 25.0,
    "units": "metres, radians, sRGB",
    "axes": "Z up, person faces -Y, +X is the person's left",
    "quaternion_order": "wxyz",
    "rotation": "rotation vector",
    "frame": "canonical-local: 0 world, 1 head, 2 left wrist, 3 right wrist",
}


@contextmanager
def write_trajectories(
    path: str | os.PathLike,
    arrays: Mapping[str, tuple[str, int, int]],
    *,
    window: int = 64,
    attrs: Mapping[str, Any] | None = None,
) -> Iterator[TrajectoryWriter]:
    """Write a shard's trajectories clip by clip: `with write_trajectories(path, {"mean_offset": ("float16", N, 3)}) as w:
    w.append(clip_id, mean_offset=(T, N, 3))`. At most one window per array waits in memory. The store appears when the block ends.
    """
    with _new_store(Path(path), {**TRAJECTORY_ATTRS, **(attrs or {})}) as group:
        writer = TrajectoryWriter(group, arrays, window)
        yield writer
        writer.finish()


class TrajectoryWriter:
    """Appends clips along time, writing whole chunks only. Made by `write_trajectories`."""

    def __init__(self, group: zarr.Group, arrays: Mapping[str, tuple[str, int, int]], window: int) -> None:
        self.group, self.window = group, window
        self.clips: dict[str, list[int]] = {}
        self.length = 0
        self._arrays = {
            name: _create(group, name, (0, n, c), dtype, (window, n, c))
            for name, (dtype, n, c) in arrays.items()
        }
        self._pending: dict[str, list[np.ndarray]] = {name: [] for name in self._arrays}
        self._written = 0

    def append(self, clip: str, **values: np.ndarray) -> tuple[int, int]:
        """Add one clip; every array of the store, each (T, N, C), finite. Returns (t_start, t_len)."""
        if clip in self.clips or set(values) != set(self._arrays):
            raise ValueError(
                f"clip {clip!r}: doubled, or arrays {sorted(values)} are not {sorted(self._arrays)}"
            )
        lengths = {len(v) for v in values.values()}
        if len(lengths) != 1:
            raise ValueError(f"clip {clip!r}: arrays differ in length: {sorted(lengths)}")
        length = lengths.pop()
        converted: dict[str, np.ndarray] = {}
        for name, value in values.items():
            array = self._arrays[name]
            with np.errstate(over="ignore"):
                converted[name] = np.asarray(value).astype(array.dtype)
            if converted[name].shape[1:] != array.shape[1:] or not np.isfinite(converted[name]).all():
                raise ValueError(
                    f"clip {clip!r}: {name} has shape {value.shape} (expected T, {array.shape[1:]}) or NaN"
                )
        for name, value in converted.items():
            self._pending[name].append(value)
        start, self.length = self.length, self.length + length
        self.clips[clip] = [start, length]
        self._flush(self.length - self.length % self.window)
        return start, length

    def _flush(self, upto: int) -> None:
        if upto <= self._written:
            return
        for name, array in self._arrays.items():
            value = np.concatenate(self._pending[name])
            count = upto - self._written
            array.resize((upto, *array.shape[1:]))
            array[self._written : upto] = value[:count]
            self._pending[name] = [value[count:]]
        self._written = upto

    def finish(self) -> None:
        """Write what waits and the table of clips."""
        self._flush(self.length)
        self.group.attrs.update({"clips": self.clips, "window": self.window})


class Trajectories(Store):
    """A shard's trajectories: `.clips` {id: (t_start, t_len)}, `.read_clip(id)` -> {name: (T, N, C)}."""

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(path)
        if "clips" not in self.attrs:
            raise UserError(f"{self.path}: expected a trajectory store, found a store without clips")
        self.clips: dict[str, tuple[int, int]] = {k: (v[0], v[1]) for k, v in self.attrs["clips"].items()}

    def read_clip(self, clip: str, start: int = 0, stop: int | None = None) -> dict[str, np.ndarray]:
        """Frames start..stop of one clip, all arrays. Raises UserError for an unknown clip or a damaged chunk."""
        if clip not in self.clips:
            raise UserError(f"{self.path}: expected clip {clip!r}, found {len(self.clips)} others")
        first, length = self.clips[clip]
        stop = length if stop is None else min(stop, length)
        return {name: self.read(name, first + start, first + stop) for name in self.names()}
