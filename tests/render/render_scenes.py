"""Small random scenes, and one call that renders a scene and takes the gradients of a fixed random loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avatar_core.render import cpu, native, reference
from avatar_core.render.batch import Settings, make_batch

INPUTS = ("means", "quats", "scales", "opacities", "colors", "viewmats", "background")


@dataclass(frozen=True)
class Scene:
    """Inputs in float64 (values representable in float32), image size, settings that differ from the defaults."""

    tensors: dict[str, Tensor]
    Ks: Tensor
    width: int
    height: int
    options: dict = field(default_factory=dict)

    def settings(self, return_depth: bool = True) -> Settings:
        values = dict(eps2d=0.3, alpha_max=0.999, alpha_min=1 / 255, transmittance_min=1e-4, near_plane=0.01)
        return Settings(self.width, self.height, **{**values, **self.options}, return_depth=return_depth)


def look(yaw: float = 0.0, distance: float = 3.0) -> Tensor:
    """World-to-camera matrix of a camera that circles the origin."""
    c, s = math.cos(yaw), math.sin(yaw)
    return torch.tensor(
        [[c, 0, s, 0.05], [0, 1, 0, -0.03], [-s, 0, c, distance], [0, 0, 0, 1]], dtype=torch.float64
    )


def random_scene(
    count: int,
    width: int,
    height: int,
    seed: int = 0,
    *,
    spread: float = 0.8,
    sigma_px: float = 4.0,
    distance: float = 3.0,
    **options,
) -> Scene:
    """`count` splats around the origin, about sigma_px wide on the image."""
    g = torch.Generator().manual_seed(seed)
    focal = 0.9 * max(width, height)
    K = torch.tensor([[focal, 0, width / 2 + 0.7], [0, 1.1 * focal, height / 2 - 1.3], [0, 0, 1]])

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    tensors = {
        "means": normal(count, 3) * spread,
        "quats": normal(count, 4) * 1.3,
        "scales": torch.exp(normal(count, 3) * 0.5) * (sigma_px * distance / focal),
        "opacities": torch.rand(count, generator=g) * 0.97 + 0.02,
        "colors": torch.rand(count, 3, generator=g),
        "viewmats": look(0.3, distance),
        "background": torch.rand(3, generator=g),
    }
    return Scene(
        {k: v.float().double() for k, v in tensors.items()}, K.float().double(), width, height, options
    )


def render(scene: Scene, backend: str = "cpu", *, threads: int = 1, isa: str | None = None, seed: int = 7):
    """Images {colors (F,3,H,W), alphas, depths} and gradients {name: tensor} of a random linear loss of all of them."""
    dtype = torch.float64 if backend == "reference" else torch.float32
    leaves = {k: v.to(dtype).clone().requires_grad_() for k, v in scene.tensors.items()}
    arguments = {k: v for k, v in leaves.items() if k != "background"}
    batch = make_batch({**arguments, "Ks": scene.Ks.to(dtype)}, leaves.get("background"), scene.settings())
    if backend == "reference":
        images = reference.rasterize(batch)
    else:
        images = cpu.rasterize(batch, threads=threads, isa=isa)
    g = torch.Generator().manual_seed(seed)
    loss = sum((image * torch.randn(image.shape, generator=g).to(dtype)).sum() for image in images)
    loss.backward()
    return dict(zip(("colors", "alphas", "depths"), (i.detach() for i in images))), {
        k: v.grad for k, v in leaves.items()
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected| in the Euclidean norm."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


def runnable_isas() -> list[str]:
    return [name for name, number in native.ISAS.items() if native.native().library.splat_isa_runs(number)]
