"""Arguments of `rasterize`: shapes checked, leading dims broadcast, numbers validated, once for all backends.

Shape letters: ... = leading batch dims (frames, cameras), F = their product, N = splats, H, W = image, px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

MAX_SIDE = 16384
TRAILING = {
    "means": ("N", 3),
    "quats": ("N", 4),
    "scales": ("N", 3),
    "opacities": ("N",),
    "colors": ("N", 3),
    "viewmats": (4, 4),
    "Ks": (3, 3),
    "background": (3,),
}


@dataclass(frozen=True)
class Settings:
    """The numbers that all backends share; see `rasterize`."""

    width: int
    height: int
    eps2d: float
    alpha_max: float
    alpha_min: float
    transmittance_min: float
    near_plane: float
    return_depth: bool


@dataclass(frozen=True)
class Batch:
    """Checked arguments, in their own shapes: a tensor holds slices[name] slices in row-major order of its leading dims, and
    index[name] (F,) int32 names the slice that each frame uses."""

    tensors: dict[str, Tensor]
    index: dict[str, Tensor]
    first: dict[str, Tensor]  # (F,) uint8: is the frame the first to use its slice?
    shape: tuple[int, ...]
    settings: Settings

    @property
    def frames(self) -> int:
        return math.prod(self.shape)

    def slices(self, name: str) -> Tensor:
        """The argument as (S, ...) with its leading dims in one."""
        tensor = self.tensors[name]
        rank = len(TRAILING[name])
        return tensor.reshape(
            math.prod(tensor.shape[: tensor.ndim - rank]), *tensor.shape[tensor.ndim - rank :]
        )

    def of_frame(self, name: str, frame: int) -> Tensor:
        return self.slices(name)[int(self.index[name][frame])]


@lru_cache(maxsize=256)
def _slices_of_frames(lead: tuple[int, ...], batch: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """index and first (see Batch) of a tensor with leading dims `lead` in a batch of shape `batch`. Do not write to them."""
    index = (
        torch.arange(math.prod(lead), dtype=torch.int32, device="cpu")
        .reshape(lead)
        .expand(batch)
        .reshape(-1)
        .contiguous()
    )
    seen: set[int] = set()
    first = [not (i in seen or seen.add(i)) for i in index.tolist()]
    return index, torch.tensor(first, dtype=torch.uint8, device="cpu")


def check_settings(settings: Settings) -> None:
    """ValueError that names the argument if a number is out of range."""
    for name in ("width", "height"):
        value = getattr(settings, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIDE:
            raise ValueError(f"{name}: expected an int in 1..{MAX_SIDE}, found {value!r}")
    ranges = {
        "eps2d": (0.0, math.inf),
        "alpha_max": (0.0, 1.0),
        "alpha_min": (0.0, 1.0),
        "transmittance_min": (0.0, 1.0),
        "near_plane": (0.0, math.inf),
    }
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if not (low <= value <= high and math.isfinite(value)):
            raise ValueError(f"{name}: expected a finite number in [{low}, {high}], found {value!r}")


def make_batch(arguments: dict[str, Tensor], background: Tensor | None, settings: Settings) -> Batch:
    """Checks shapes and values. ValueError names the argument, what was expected and what was found.

    A background may be (3,), (..., 3); per-pixel backgrounds are composited by `rasterize` itself.
    """
    check_settings(settings)
    arguments = dict(arguments) if background is None else {**arguments, "background": background}
    count = None
    leading: dict[str, tuple[int, ...]] = {}
    for name, tensor in arguments.items():
        expected = TRAILING[name]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(f"{name}: expected a floating-point tensor, found {_describe(tensor)}")
        rank = len(expected)
        shape = tuple(tensor.shape[-rank:]) if tensor.ndim >= rank else ()
        if name == "means" and len(shape) == rank:  # comes first
            count = tensor.shape[-rank]
        wanted = tuple(count if size == "N" else size for size in expected)
        if shape != wanted:
            text = ", ".join(str(size) for size in wanted)
            raise ValueError(f"{name}: expected shape (..., {text}), found {tuple(tensor.shape)}")
        leading[name] = tuple(tensor.shape[:-rank])
    try:
        distinct = set(leading.values())
        batch = distinct.pop() if len(distinct) == 1 else tuple(torch.broadcast_shapes(*leading.values()))
    except RuntimeError:
        sizes = ", ".join(f"{name} {shape}" for name, shape in leading.items())
        raise ValueError(f"leading batch dims do not broadcast: {sizes}") from None

    pairs = {name: _slices_of_frames(lead, batch) for name, lead in leading.items()}
    index, first = ({name: pair[k] for name, pair in pairs.items()} for k in (0, 1))
    return Batch(arguments, index, first, batch, settings)


def check_values(batch: Batch) -> None:
    """ValueError naming the first argument that holds NaN or infinity, and where, or a focal length that is not positive."""
    for name, tensor in batch.tensors.items():
        bad = ~torch.isfinite(tensor.detach())
        if bool(bad.any()):
            first = tuple(int(i) for i in bad.nonzero()[0])
            raise ValueError(
                f"{name}: expected finite numbers, found {int(bad.sum())} NaN or infinite, first at {first}"
            )
    focal = batch.tensors["Ks"].detach()[..., (0, 1), (0, 1)]
    if not bool((focal > 0).all()):
        raise ValueError(f"Ks: expected positive focal lengths, found {float(focal.min()):g}")


def _describe(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
