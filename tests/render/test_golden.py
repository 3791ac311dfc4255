"""Every backend against the golden files, and gsplat's CUDA kernels against the reference where there is a GPU."""

import golden
import pytest
import torch
from render_scenes import INPUTS, random_scene, relative_error

from avatar_core.render import rasterize


def gsplat_reason():
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    try:
        import gsplat  # noqa: F401
    except ImportError as error:
        return f"gsplat cannot be imported: {error}"
    return None


needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(gsplat_reason() is not None, reason=str(gsplat_reason()))]


@pytest.mark.parametrize("backend", ["reference", "cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("name", golden.SCENES)
def test_golden_files(name, backend):
    tensors, width, height = golden.load(name)
    device = "cuda" if backend == "cuda" else "cpu"
    images, gradients = golden.draw(tensors, width, height, backend, device)
    for key, image in images.items():
        worst = (image - tensors[f"image.{key}"]).abs().max()
        assert worst < (1e-4 if key == "depths" or backend == "cuda" else 2e-5), key
    for key in INPUTS:
        assert relative_error(gradients[key], tensors[f"gradient.{key}"]) < (
            1e-3 if backend == "cuda" else 1e-4
        ), key


@pytest.mark.parametrize("frames", [pytest.param(f, marks=needs_gpu) for f in (1, 4)])
def test_gsplat_parity(frames):
    scene = random_scene(5000, 200, 180, 1, sigma_px=3.0)
    tensors = {k: v.float() for k, v in scene.tensors.items()}
    if frames > 1:
        g = torch.Generator().manual_seed(2)
        tensors["means"] = tensors["means"] + 0.02 * torch.randn(frames, 5000, 3, generator=g)
    found = {}
    for backend in ("cpu", "cuda"):
        leaves = {k: v.to(backend).requires_grad_() for k, v in tensors.items()}
        Ks = scene.Ks.float().to(backend)
        color, alpha, depth = rasterize(
            *(leaves[k] for k in INPUTS[:6]), Ks, scene.width, scene.height,
            background=leaves["background"], return_depth=True,
        )  # fmt: skip
        (color.square().sum() + alpha.sum() + depth.mean()).backward()
        found[backend] = color.detach().cpu(), {k: v.grad.cpu() for k, v in leaves.items()}
    # a few pixels may fall on the other side of a threshold
    assert ((found["cpu"][0] - found["cuda"][0]).abs() > 1e-3).float().mean() < 1e-3
    for key in INPUTS:
        assert relative_error(found["cuda"][1][key], found["cpu"][1][key]) < 1e-2, key


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_backend_says_what_it_needs():
    scene = random_scene(5, 8, 8)
    arguments = [scene.tensors[k].float() for k in INPUTS[:6]] + [scene.Ks.float(), 8, 8]
    with pytest.raises(RuntimeError, match="no CUDA device"):
        rasterize(*arguments, backend="cuda")
    with pytest.raises(ValueError, match=r"^alpha_max: the cuda backend has 0.999 built in"):
        rasterize(*arguments, backend="cuda", alpha_max=0.5)
