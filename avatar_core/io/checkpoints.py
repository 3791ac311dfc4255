"""Model weights: a safetensors file plus a JSON sidecar that says what they are and proves that they are intact.

`model.safetensors` + `model.json` {schema, config, seed, sha256, tensors}. No git revision and no time: the same training gives
the same bytes in every clone (the revision of the code is DVC's to record).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from avatar_core.errors import UserError
from avatar_core.io.atomic import atomic_file, sha256_file, write_json

SCHEMA = 1


def save_checkpoint(
    path: str | os.PathLike,
    tensors: Mapping[str, torch.Tensor | np.ndarray],
    *,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> None:
    """Write `tensors` (a state_dict, any name -> array) to `path` (.safetensors) and its sidecar beside it, each atomically.

    `config` is JSON-able and enough to build the module again. Raises ValueError when a floating tensor is not finite.
    """
    path = _checked_suffix(path)
    plain: dict[str, torch.Tensor] = {}
    for name in sorted(tensors):
        tensor = torch.as_tensor(tensors[name], device="cpu").detach().contiguous().clone()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"checkpoint {path}: tensor {name!r} has NaN or infinite values; not saved")
        plain[name] = tensor
    with atomic_file(path) as temporary:
        temporary.touch()  # as new files are: safetensors would make one that nobody else may read
        mode = temporary.stat().st_mode
        save_file(plain, str(temporary))
        temporary.chmod(mode)
        digest = sha256_file(temporary)
    write_json(
        path.with_suffix(".json"),
        {
            "schema": SCHEMA,
            "config": dict(config or {}),
            "seed": seed,
            "sha256": digest,
            "tensors": {name: [str(t.dtype).removeprefix("torch."), *t.shape] for name, t in plain.items()},
        },
    )


def load_checkpoint(
    path: str | os.PathLike, *, hint: str = ""
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read and verify a checkpoint -> (tensors, sidecar). `hint` says how to get it, e.g. "run `dvc repro generator`".

    Raises UserError naming the file when it or its sidecar is missing, damaged, or they do not belong together.
    """
    path = _checked_suffix(path)
    sidecar_path = path.with_suffix(".json")
    tail = f"; {hint}" if hint else ""
    for file in (path, sidecar_path):
        if not file.is_file():
            raise UserError(f"{file}: expected a checkpoint, found no such file{tail}")
    try:
        sidecar = json.loads(sidecar_path.read_text())
        expected = sidecar["sha256"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{sidecar_path}: expected a checkpoint's JSON sidecar, found damaged text{tail}"
        ) from None
    if sidecar.get("schema") != SCHEMA:
        raise UserError(f"{sidecar_path}: expected schema {SCHEMA}, found {sidecar.get('schema')!r}{tail}")
    found = sha256_file(path)
    if found != expected:
        raise UserError(
            f"{path}: expected SHA-256 {expected[:12]}..., found {found[:12]}... (damaged or replaced){tail}"
        )
    try:
        return load_file(str(path)), sidecar
    except SafetensorError as error:
        raise UserError(f"{path}: expected safetensors, found {error}{tail}") from None


def has_checkpoint(path: str | os.PathLike) -> bool:
    """Is there an intact checkpoint at `path`? A torn or damaged one counts as absent, so that resuming starts over."""
    try:
        load_checkpoint(path)
    except UserError:
        return False
    return True


def _checked_suffix(path: str | os.PathLike) -> Path:
    path = Path(path)
    assert path.suffix == ".safetensors", f"checkpoints end in .safetensors, got {path}"
    return path
