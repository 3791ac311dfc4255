"""Training state on disk: weights, their average, optimizer and random states, so that a killed run goes on exactly.

One safetensors file a checkpoint (`train-00000400.safetensors`), the last two kept: a torn write leaves the one before.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core.errors import UserError
from avatar_core.io.checkpoints import load_checkpoint, save_checkpoint


def save_state(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    generator: torch.Generator,
    curve: list,  # JSON-able, one entry a step
    fingerprint: str = "",
) -> None:
    """Write the state after `step` steps and remove all but the last two."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors["random/global"] = torch.get_rng_state()
    tensors["random/batches"] = generator.get_state()
    save_checkpoint(
        folder / f"train-{step:08d}.safetensors",
        tensors,
        config={"step": step, "curve": curve, "fingerprint": fingerprint},
    )
    for old in sorted(folder.glob("train-*.safetensors"))[:-2]:
        old.unlink()
        old.with_suffix(".json").unlink(missing_ok=True)


def load_latest(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    generator: torch.Generator,
    curve: list,  # JSON-able, one entry a step
    fingerprint: str = "",
) -> int:
    """Restore the newest intact state with this fingerprint into the arguments; returns its step, 0 if there is none."""
    for path in sorted(Path(folder).glob("train-*.safetensors"), reverse=True):
        try:
            tensors, sidecar = load_checkpoint(path)
        except UserError:
            continue
        if sidecar["config"].get("fingerprint") != fingerprint:
            continue  # left by another configuration or other data
        model.load_state_dict(_part(tensors, "model/"))
        for name, value in _part(tensors, "average/").items():
            average[name].copy_(value)
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimizer/").items():
            index, key = name.split("/")
            states.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        torch.set_rng_state(tensors["random/global"])
        generator.set_state(tensors["random/batches"])
        curve[:] = sidecar["config"]["curve"]
        return int(sidecar["config"]["step"])
    return 0


def fingerprint_of(*parts: object) -> str:
    """SHA-256 over configurations (by repr) and arrays (by bytes): equal only for the same run."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(
            np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
        )
    return digest.hexdigest()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
