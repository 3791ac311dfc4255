"""The compiled kernel behind ctypes: finds `_native.so`, mirrors its `Call` structure, owns its scratch memory.

ctypes releases the interpreter lock during calls; the library keeps no state of its own, so any number of Python threads
may render at once. See csrc/splat.h for the C side.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from functools import cache
from pathlib import Path

import torch

ARGUMENTS = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "background")
ISAS = {"portable": 1, "avx2": 2, "avx512": 3}
PHASES = ("project", "sort", "bin", "blend", "blend_backward", "project_backward")
TILE = 32  # pixels, as in csrc/splat.h
POOL_BYTES = 512 << 20  # scratch kept between calls, at most


class Call(ctypes.Structure):
    """One rasterization, see `struct Call` in csrc/splat.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("frames", "count", "width", "height", "threads", "with_depth")),
        *((name, ctypes.c_int32) for name in ("keep_state", "isa")),
        *(
            (n, ctypes.c_float)
            for n in ("eps2d", "alpha_max", "alpha_min", "transmittance_min", "near_plane")
        ),
        ("reserved", ctypes.c_int32),
        ("inputs", ctypes.c_void_p * len(ARGUMENTS)),
        ("index", ctypes.c_void_p * len(ARGUMENTS)),
        ("first", ctypes.c_void_p * len(ARGUMENTS)),
        *((n, ctypes.c_void_p) for n in ("colors", "alphas", "depths")),
        *((n, ctypes.c_void_p) for n in ("grad_colors", "grad_alphas", "grad_depths")),
        ("grad", ctypes.c_void_p * len(ARGUMENTS)),
    )


def _library_path() -> Path | None:
    beside = Path(__file__).with_name("_native.so")
    if beside.exists():
        return beside
    spec = importlib.util.find_spec("avatar_core.render._native")  # editable installs keep it elsewhere
    return Path(spec.origin) if spec and spec.origin else None


class Native:
    """The loaded library and one pool of scratch memory. Build it once through `native()`."""

    def __init__(self, path: Path) -> None:
        self.library = library = ctypes.CDLL(str(path))
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        library.splat_pool_create.restype = pointer
        library.splat_pool_create.argtypes = [ctypes.c_size_t]
        library.splat_pool_bytes.restype = ctypes.c_size_t
        library.splat_pool_bytes.argtypes = [pointer]
        library.splat_forward.argtypes = [pointer, pointer, pointer]
        library.splat_backward.argtypes = [pointer, pointer]
        library.splat_state_free.restype = None
        library.splat_state_free.argtypes = [pointer]
        library.splat_state_profile.restype = None
        library.splat_state_profile.argtypes = [pointer, integer, integer, pointer, pointer]
        library.splat_peak_gflops.restype = ctypes.c_double
        library.splat_peak_gflops.argtypes = [integer, ctypes.c_double, integer]
        if library.splat_call_bytes() != ctypes.sizeof(Call):
            raise ImportError(f"{path} was built from other sources: run python -m avatar_core.render.build")
        self.pool = library.splat_pool_create(POOL_BYTES)
        self.best_isa = library.splat_best_isa()

    def isa(self, name: str | None) -> int:
        """The number of a SIMD build; None = the best this machine runs. ValueError if it cannot run here."""
        if name is None:
            return self.best_isa
        if name not in ISAS:
            raise ValueError(f"isa: expected one of {', '.join(ISAS)}, found {name!r}")
        if not self.library.splat_isa_runs(ISAS[name]):
            raise ValueError(f"isa: this machine does not run the {name} build")
        return ISAS[name]


@cache
def native() -> Native:
    """Loads the kernel on first use. ImportError with one line if it has not been built."""
    path = _library_path()
    if path is None:
        raise ImportError(
            "the native renderer is not built: pip install the package, or run python -m avatar_core.render.build"
        )
    return Native(path)


class State:
    """What a forward call left for its backward calls; freed with the object."""

    def __init__(self, handle: int, count: int, width: int, height: int) -> None:
        self.handle: int | None = handle
        self.count = count
        self.tiles = -(-width // TILE) * -(-height // TILE)

    def profile(self) -> dict[str, float]:
        """Seconds per phase, visible splats, (tile, splat) pairs, patches changed and bytes held, summed over frames."""
        seconds = (ctypes.c_double * len(PHASES))()
        counts = (ctypes.c_int64 * 4)()
        native().library.splat_state_profile(self.handle, self.count, self.tiles, seconds, counts)
        return {**dict(zip(PHASES, seconds)), **dict(zip(("visible", "pairs", "patches", "bytes"), counts))}

    def __del__(self) -> None:
        if self.handle is not None:
            native().library.splat_state_free(self.handle)
            self.handle = None


def default_threads() -> int:
    """AVATAR_RENDER_THREADS if set, else torch's thread count."""
    return int(os.environ.get("AVATAR_RENDER_THREADS") or torch.get_num_threads())
