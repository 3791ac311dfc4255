"""Loading a diffusers pipeline from a folder: safetensors only, no code of its own, no network."""

from __future__ import annotations

import importlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from avatar_core.errors import UserError

PACKAGES = ("diffusers", "transformers", "accelerate")
DTYPES = ("bf16", "fp16", "fp32")
OFFLOADS = ("none", "model", "sequential")


def torch_dtype(name: str) -> Any:
    """torch's name of one of DTYPES."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


def load_part(cls: str, folder: Path, dtype: str, **options: Any) -> Any:
    """What a folder holds, a network or a pipeline of class `cls` of diffusers, or of transformers where that has none, on the CPU.

    options: of its `from_pretrained`.
    Raises UserError naming the folder when it cannot be loaded.
    """
    diffusers, transformers = (importlib.import_module(name) for name in PACKAGES[:2])
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    try:
        return getattr(diffusers if hasattr(diffusers, cls) else transformers, cls).from_pretrained(
            str(folder), dtype=torch_dtype(dtype), use_safetensors=True, local_files_only=True, **options
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, AttributeError) as error:
        raise UserError(f"{folder}: expected {cls} to load, found: {str(error)[:300]}") from None


@lru_cache(maxsize=1)
def load_pipeline(cls: str, folder: Path, dtype: str, variant: str, offload: str, device: str) -> Any:
    """A pipeline of diffusers' class `cls`, on a device. offload: parts (model) or layers (sequential) wait in the CPU's memory.

    Raises UserError naming the folder when it cannot be loaded.
    """
    pipeline = load_part(cls, folder, dtype, variant=variant or None)
    pipeline.set_progress_bar_config(disable=True)
    if offload == "model" and device != "cpu":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential" and device != "cpu":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return pipeline
