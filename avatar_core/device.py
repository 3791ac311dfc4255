"""Where tensors are computed, and in which precision networks train.

`resolve("cuda", "bf16")` says once, before work starts, whether that can be had. Everything is made, drawn at random and read
from files on the CPU and goes to the device in one place: models by `.to(compute.device)`, batches by `compute.put`. So a seed
means the same draws everywhere (but for what dropout drops). torch is imported when a device is asked for, not before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from avatar_core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DEVICES = "auto, cpu, cuda or cuda:N"
PRECISIONS = ("fp32", "bf16")
_NAME = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Compute:
    """device: as torch names it, cpu or cuda:0. bf16: networks train under autocast; geometry and pictures never do.

    ahead: batches that a training draws ahead of its steps, on another thread; changes nothing in them."""

    device: str = "cpu"
    bf16: bool = False
    ahead: int = 0

    @property
    def on_card(self) -> bool:
        """Does reading a number back make the CPU wait?"""
        return self.device != "cpu"

    def put(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """A batch and its random draws on the device: the one place where they go there."""
        return tuple(value.to(self.device, non_blocking=True) for value in batch)

    def adamw(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> torch.optim.AdamW:
        """On a CUDA device the fused one, which leaves out a step that is not finite by itself (see `training.loop`)."""
        import torch

        return torch.optim.AdamW(parameters, lr, betas, weight_decay=weight_decay, fused=self.on_card or None)

    def autocast(self) -> AbstractContextManager[object]:
        """For the forward pass of a network in training. What leaves it is to be made float again before it is summed up."""
        if not self.bf16:
            return nullcontext()
        import torch

        return torch.autocast(self.device.split(":")[0], torch.bfloat16)


CPU = Compute()


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast within: for geometry in the middle of a network."""
    import torch

    cast = device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if cast else nullcontext()


def check_device(name: str, where: str) -> None:
    """Raises UserError, starting with `where`, unless name is one of DEVICES. Does not look for the device."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{where}: expected {DEVICES}, found {name!r}")


def resolve(
    name: str,
    precision: str = "fp32",
    *,
    where: str = "--device",
    renders: bool = False,
    say: Callable[[str], None] | None = None,
) -> Compute:
    """The device of a name of DEVICES, which is made torch's current one; `say` hears in a line what auto chose.

    renders: pictures are drawn there. Raises UserError, starting with `where`: torch without CUDA, no GPU, an index that none has,
    no bfloat16, no gsplat to draw with.
    """
    check_device(name, where)
    if name == "cpu":
        return Compute("cpu", precision == "bf16")
    lacking = _lacking(renders)
    if name == "auto":
        if say:
            say(f"{where} auto: {f'cpu, because of {lacking}' if lacking else f'cuda:0, {_card(0)}'}")
        return resolve("cpu" if lacking else "cuda:0", precision, where=where)
    if lacking:
        raise UserError(f"{where}: expected what {name} needs, found {lacking}; see docs/gpu.md, or give cpu")
    import torch

    index, count = int(name.partition(":")[2] or 0), cards()
    if index >= count:
        raise UserError(f"{where}: expected cuda:N with N below {count}, found {name}")
    if precision == "bf16" and torch.cuda.get_device_capability(index) < (8, 0):
        raise UserError(f"{where}: expected a GPU that computes in bf16, found {_card(index)}; give fp32")
    torch.cuda.set_device(index)
    return Compute(f"cuda:{index}", precision == "bf16")


def cards() -> int:
    """How many GPUs torch sees."""
    import torch

    return torch.cuda.device_count()


def card_memory(index: int) -> tuple[int, str]:
    """Bytes that are free on a GPU, and its name."""
    import torch

    return torch.cuda.mem_get_info(index)[0], _card(index)


def too_little_memory(error: RuntimeError) -> UserError | None:
    """In one line that a CUDA device ran out of memory; None where `error` says something else."""
    if type(error).__name__ != "OutOfMemoryError":
        return None
    return UserError(f"GPU: expected more memory, found {str(error).split('. GPU')[0]}; see docs/gpu.md")


def _lacking(renders: bool) -> str:
    """What keeps CUDA from being used; empty where nothing does."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__}, which is built without CUDA"
    if not torch.cuda.is_available():
        return "no GPU that torch sees"
    return "no gsplat (pip install 'audioavatar[gpu]')" if renders and not find_spec("gsplat") else ""


def _card(index: int) -> str:
    import torch

    return torch.cuda.get_device_name(index)
