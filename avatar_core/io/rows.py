"""Arrays that stay on disk: read where they are sliced, with the chunks lately read kept up to a fixed number of bytes.

What trains on more clips than memory holds is given `Rows` in the place of arrays. A chunk is read from its file directly, 20
times as fast as through zarr, and its checksum is compared every time it is.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc

from avatar_core.errors import UserError
from avatar_core.io.store import Store

CACHE_BYTES = 48 << 20  # of a process: all sounds and latents of a laptop run


class Rows:
    """Array `name` of a store (see `io.store`): `len`, `shape` and `dtype` as the array's own, rows[a:b] and rows[k] read it.

    `np.asarray(rows)` reads all of it. Nothing is open in between, so it can be given to another process.
    """

    def __init__(self, store: Store, name: str) -> None:
        """Raises UserError when there is no such array."""
        self.path, self.name = store.path, name
        self.shape, self.dtype, self.step = store.layout(name)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        """A copy. Raises UserError naming the file of a chunk that is absent or damaged, IndexError beyond the last row."""
        if not isinstance(rows, slice):
            return self[range(len(self))[rows] : range(len(self))[rows] + 1][0]
        start, stop, step = rows.indices(len(self))
        if step != 1:
            return self[:][rows]
        out = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        for number in range(start // self.step, -(-stop // self.step) if out.size else 0):
            first = number * self.step
            a, b = max(start, first), min(stop, first + self.step)
            out[a - start : b - start] = _chunks.get(self, number)[a - first : b - first]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def chunk(self, number: int) -> np.ndarray:
        """Rows step * number .. step * (number + 1), with what fills up the last."""
        file = self.path / self.name / "c" / str(number) / Path(*["0"] * (len(self.shape) - 1))
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UserError(
                f"{file}: expected a chunk, found {error.strerror}; make the store again"
            ) from None
        packed, checksum = content[:-4], content[-4:]
        if google_crc32c.value(packed) != int.from_bytes(checksum, "little"):
            raise UserError(f"{file}: expected an intact chunk, found another checksum; make the store again")
        return np.frombuffer(Blosc().decode(packed), self.dtype).reshape(self.step, *self.shape[1:])


class _Chunks:
    """The chunks lately read, of all stores."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self.kept: OrderedDict[tuple[Path, str, int], np.ndarray] = OrderedDict()
        self.bytes, self.lock = 0, threading.Lock()

    def get(self, rows: Rows, number: int) -> np.ndarray:
        key = (rows.path, rows.name, number)
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
        chunk = rows.chunk(number)
        with self.lock:
            if key not in self.kept:
                self.kept[key] = chunk
                self.bytes += chunk.nbytes
            while self.bytes > CACHE_BYTES:
                self.bytes -= self.kept.popitem(last=False)[1].nbytes
        return chunk


_chunks = _Chunks()
