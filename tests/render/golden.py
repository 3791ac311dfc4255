"""Golden files: scenes with images and gradients from the float64 reference. Run this file to write them anew."""

from pathlib import Path

import torch
from render_scenes import INPUTS, look, random_scene
from safetensors.torch import load_file, save_file

from avatar_core.render import rasterize

FOLDER = Path(__file__).parents[1] / "data" / "render"
SCENES = {
    "single": (random_scene(60, 57, 44, 21, sigma_px=6.0), 1),
    "batch": (random_scene(40, 40, 36, 22, sigma_px=7.0), 2),
}
IMAGES = ("colors", "alphas", "depths")


def draw(tensors, width, height, backend, device="cpu", dtype=torch.float32):
    """Images and gradients of sum(image * weights) for the inputs of a golden file."""
    leaves = {k: tensors[k].to(device, dtype).requires_grad_() for k in INPUTS}
    images = rasterize(
        *(leaves[k] for k in INPUTS[:6]), tensors["Ks"].to(device, dtype), width, height,
        background=leaves["background"], backend=backend, return_depth=True,
    )  # fmt: skip
    sum(
        (image * tensors[f"weight.{k}"].to(device, dtype)).sum() for k, image in zip(IMAGES, images)
    ).backward()
    return {k: i.detach().cpu() for k, i in zip(IMAGES, images)}, {k: v.grad.cpu() for k, v in leaves.items()}


def load(name):
    """Tensors, width, height of a golden file."""
    tensors = load_file(FOLDER / f"{name}.safetensors")
    height, width = tensors["image.colors"].shape[-3:-1]
    return tensors, width, height


def far_from_thresholds(tensors, width, height):
    """Does no pixel change when the thresholds move by 1e-4 of their value? (Else rounding would decide the image.)"""
    arguments = [tensors[k].double() for k in INPUTS[:6]] + [tensors["Ks"].double(), width, height]
    images = [
        rasterize(*arguments, backend="reference", alpha_min=(1 + e) / 255, transmittance_min=1e-4 * (1 + e))[
            0
        ]
        for e in (-1e-4, 1e-4)
    ]
    return float((images[0] - images[1]).abs().max()) == 0


def make(scene, frames, seed):
    g = torch.Generator().manual_seed(seed)
    tensors = {**scene.tensors, "Ks": scene.Ks}
    lead = ()
    if frames > 1:
        lead = (frames,)
        moves = 0.05 * torch.randn(frames, *tensors["means"].shape, generator=g)
        tensors["means"] = tensors["means"] + moves
        tensors["viewmats"] = torch.stack([look(0.3 + 0.2 * f) for f in range(frames)])
    tensors["means"] = tensors["means"] + 0.01 * torch.randn(tensors["means"].shape, generator=g)
    tensors = {k: v.float().contiguous() for k, v in tensors.items()}
    for key, channels in zip(IMAGES, (3, 1, 1)):
        tensors[f"weight.{key}"] = torch.randn(*lead, scene.height, scene.width, channels, generator=g)
    return tensors


def write(name):
    scene, frames = SCENES[name]
    seed = 0
    while not far_from_thresholds(tensors := make(scene, frames, seed), scene.width, scene.height):
        seed += 1
    images, gradients = draw(tensors, scene.width, scene.height, "reference", dtype=torch.float64)
    tensors |= {f"image.{k}": v.float().contiguous() for k, v in images.items()}
    tensors |= {f"gradient.{k}": v.float().contiguous() for k, v in gradients.items()}
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(tensors, FOLDER / f"{name}.safetensors", metadata={"made_by": "reference backend, float64"})


if __name__ == "__main__":
    for name in SCENES:
        write(name)
