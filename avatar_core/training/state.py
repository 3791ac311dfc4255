"""Training state on disk: weights, their average, optimizer and random states, so that a killed run goes on exactly.

One safetensors file a checkpoint (`train-00000400.safetensors`), the last two kept: a torn write leaves the one before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from avatar_core.errors import UserError
from avatar_core.io.checkpoints import load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class TrainingState:
    """All that decides how a run goes on. Saving reads the parts, restoring changes them in place.

    average: the averaged weights; rng: draws the batches; curve: JSON-able, one entry a step; fingerprint:
    of the configuration and the data, only states with the same one are restored.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    rng: torch.Generator
    curve: list
    fingerprint: str


def save_state(folder: Path, step: int, state: TrainingState) -> None:
    """Write the state after `step` steps and remove all but the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{k}": v for k, v in state.model.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in state.average.items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": torch.as_tensor(v, device="cpu") for k, v in values.items()}
    tensors["random/global"] = torch.get_rng_state()
    if device := _card(state):
        tensors["random/card"] = torch.cuda.get_rng_state(device)
    tensors["random/batches"] = state.rng.get_state()
    save_checkpoint(
        folder / f"train-{step:08d}.safetensors",
        tensors,
        config={"step": step, "curve": state.curve, "fingerprint": state.fingerprint},
    )
    for old in sorted(folder.glob("train-*.safetensors"))[:-2]:
        old.unlink()
        old.with_suffix(".json").unlink(missing_ok=True)


def load_latest(folder: Path, state: TrainingState) -> int:
    """Restore the newest intact state with this fingerprint; returns its step, 0 if there is none."""
    for path in sorted(folder.glob("train-*.safetensors"), reverse=True):
        try:
            tensors, sidecar = load_checkpoint(path)
        except UserError:
            continue
        config = sidecar["config"]
        if config.get("fingerprint") != state.fingerprint:
            continue  # left by another configuration or other data
        state.model.load_state_dict(_part(tensors, "model/"))
        for name, value in _part(tensors, "average/").items():
            state.average[name].copy_(value)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimizer/").items():
            index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = value
        state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
        torch.set_rng_state(tensors["random/global"])
        if (device := _card(state)) and "random/card" in tensors:
            torch.cuda.set_rng_state(tensors["random/card"], device)
        state.rng.set_state(tensors["random/batches"])
        state.curve[:] = config["curve"]
        return int(config["step"])
    return 0


def _card(state: TrainingState) -> torch.device | None:
    """The CUDA device of the model, whose own generator draws what dropout drops."""
    device = next(state.model.parameters()).device
    return device if device.type == "cuda" else None


def fingerprint_of(*parts: object, arrays: Iterable[ArrayLike] = ()) -> str:
    """SHA-256 over configurations (by repr) and arrays (by bytes, read one at a time): equal only for the same run."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
