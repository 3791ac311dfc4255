"""Wan2.2-S2V's denoiser, of DiffSynth-Studio's class, from the folder that its makers publish.

Of the package diffsynth one module is imported, and not the package: that would import torchvision, modelscope and more, which
nothing here needs.
"""

from __future__ import annotations

import importlib
import json
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from avatar_core.errors import UserError
from avatar_core.models.files import check_weights

if TYPE_CHECKING:
    import torch

DIFFSYNTH = "2.1.12"  # whose source was read
SIZES = (
    "dim", "in_dim", "ffn_dim", "out_dim", "freq_dim", "eps", "num_heads", "num_layers", "cond_dim", "audio_dim", "num_audio_token",
    "enable_adain", "audio_inject_layers", "framepack_drop_mode",
)  # fmt: skip
FIXED = (
    "enable_adain",
    "zero_timestep",
    "add_last_motion",
    "enable_framepack",
)  # the class knows no other than true
LATENTS = 16  # channels, in the class as a number


def need_diffsynth(where: str) -> None:
    """Raises UserError, starting with `where`, unless the class is there, at the version that was read."""
    missing = [name for name in ("diffsynth", "einops") if find_spec(name) is None]
    try:
        found = f"no {', '.join(missing)}" if missing else version("diffsynth")
    except PackageNotFoundError:
        found = "one that was not installed by pip"
    if found != DIFFSYNTH:
        raise UserError(
            f"{where}: expected diffsynth {DIFFSYNTH} and einops, found {found}; "
            f"pip install --no-deps diffsynth=={DIFFSYNTH} einops"
        )


def load_denoiser(folder: Path, dtype: torch.dtype) -> Any:
    """A WanS2VModel on the CPU, from config.json and the safetensors beside it. Raises UserError naming the file."""
    from accelerate import init_empty_weights  # pyright: ignore[reportMissingImports]
    from safetensors.torch import load_file

    config = read_config(folder)
    tensors: dict[str, torch.Tensor] = {}
    for file in check_weights(folder):
        tensors |= {name: value.to(dtype) for name, value in load_file(file).items()}
    try:
        text, patch = tensors["text_embedding.0.weight"].shape[1], tensors["patch_embedding.weight"].shape[2:]
        with init_empty_weights():
            model = load_class()(**config, text_dim=text, patch_size=tuple(patch))
        model.load_state_dict(tensors, strict=True, assign=True)
    except (KeyError, RuntimeError, TypeError) as error:
        line = " ".join(str(error).split())[:300]
        raise UserError(f"{folder}: expected the weights of a WanS2VModel, found: {line}") from None
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """Sizes of the published config.json, as the class takes them. Raises UserError where the class would not do."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = {name: content[name] for name in SIZES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected the sizes of Wan2.2-S2V, found: {type(error).__name__} {error}"
        ) from None
    wrong = [name for name in FIXED if not content.get(name)]
    if wrong or config["in_dim"] != LATENTS:
        raise UserError(
            f"{path}: expected in_dim {LATENTS} and {', '.join(FIXED)} to be true, found {wrong or config['in_dim']}"
        )
    return config


@lru_cache(maxsize=1)
def load_class() -> Any:
    """diffsynth's WanS2VModel. Its packages' own files are not run: bare modules stand for them meanwhile."""
    spec = find_spec("diffsynth")
    assert spec is not None and spec.submodule_search_locations is not None, "need_diffsynth comes first"
    (place,) = spec.submodule_search_locations
    bare = {}
    for name in ("diffsynth", "diffsynth.core"):
        if name not in sys.modules:
            bare[name] = ModuleType(name)
            bare[name].__path__ = [str(Path(place, *name.split(".")[1:]))]
    sys.modules.update(bare)
    try:
        return importlib.import_module("diffsynth.models.wan_video_dit_s2v").WanS2VModel
    finally:
        for name in bare:
            del sys.modules[name]
