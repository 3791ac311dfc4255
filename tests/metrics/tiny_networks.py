"""Networks with the inputs and outputs of the published ones, small and made on the spot: TorchScript, and ONNX.

Each gives numbers that follow from the mean colour of what it sees (of each ninth, so that places count), by fixed weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from avatar_core.metrics.syncnet import network
from tests.models.tiny_onnx import node, write_onnx


class Means(nn.Module):
    """(B,3,...) -> (B,n) for each n: fixed mixtures of the means over a coarse grid."""

    def __init__(self, *sizes: int, scale: float = 1.0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(sum(sizes))
        self.weights = nn.ParameterList(
            nn.Parameter(scale * torch.randn(27, size, generator=random)) for size in sizes
        )

    def mix(self, x: torch.Tensor) -> list[torch.Tensor]:
        flat = x.flatten(2, -2) if x.dim() > 4 else x
        means = nn.functional.adaptive_avg_pool2d(flat, (3, 3)).flatten(1)
        return [means @ weight for weight in self.weights]


class One(Means):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(x)[0]


class PublishedI3D(Means):
    """With the arguments of StyleGAN-V's file."""

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        assert return_features and not rescale and not resize
        assert x.shape[1:] == (3, 16, 224, 224)
        assert float(x.min()) >= -1.001 and float(x.max()) <= 1.001
        return self.mix(x)[0]


class PublishedInception(Means):
    """With the arguments of stylegan2-ada's file, which wants bytes."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features
        assert float(img.min()) >= -0.1 and float(img.max()) <= 255.1
        return self.mix((img - 128) / 128)[0]


class Pose(Means):
    """DWPose's two outputs: points by bins along x and along y."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        across, down = self.mix(x)
        return across.unflatten(1, (133, 576)), down.unflatten(1, (133, 768))


def save_script(path: Path, module: nn.Module) -> Path:
    """As TorchScript. A module of these has no branches but assertions, so that its source is what runs."""
    torch.jit.script(module.eval()).save(str(path))
    return path


def save_syncnet(path: Path) -> Path:
    """SyncNet's own network with random weights, as safetensors."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in network().state_dict().items()}, path)
    return path


def save_onnx(path: Path, sample: tuple[int, ...], *outputs: tuple[int, ...], scale: float = 1.0) -> Path:
    """ONNX: x (1,3,H,W) -> the mean colour, mixed by fixed weights of that scale into each of the outputs (1,*shape)."""
    rng = np.random.default_rng(1)
    nodes, constants = [node("GlobalAveragePool", ["x"], "pool")], {}
    for k, shape in enumerate(outputs):
        mixture = scale * rng.normal(size=(int(np.prod(shape)), 3, 1, 1))
        constants |= {f"w{k}": mixture.astype(np.float32), f"s{k}": np.array((1, *shape), np.int64)}
        nodes += [node("Conv", ["pool", f"w{k}"], f"r{k}"), node("Reshape", [f"r{k}", f"s{k}"], f"y{k}")]
    shapes = {f"y{k}": (1, *shape) for k, shape in enumerate(outputs)}
    return write_onnx(path, sample[1:], nodes, constants, shapes)
