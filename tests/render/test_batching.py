"""Leading dims, shared arguments, threads: the batch equals its frames, and the bits do not depend on the threads."""

import threading

import pytest
import torch
from render_scenes import look, random_scene, relative_error, render, runnable_isas

from avatar_core.render import rasterize

ATTRIBUTES = ("means", "quats", "scales", "opacities", "colors", "viewmats")


def float_scene(count=400, size=70, seed=0):
    scene = random_scene(count, size, size - 7, seed)
    return {k: v.float() for k, v in scene.tensors.items()}, scene.Ks.float(), scene.width, scene.height


def draw(tensors, K, width, height, **options):
    """Images and gradients of a fixed loss through the public call."""
    leaves = {k: v.clone().requires_grad_() for k, v in tensors.items()}
    out = rasterize(
        *(leaves[k] for k in ATTRIBUTES), K, width, height,
        background=leaves.get("background"), return_depth=True, **options,
    )  # fmt: skip
    g = torch.Generator().manual_seed(3)
    sum((image * torch.randn(image.shape, generator=g)).sum() for image in out).backward()
    return [image.detach() for image in out], {k: v.grad for k, v in leaves.items()}


def moving(tensors, frames):
    """Frames of moving splats seen by moving cameras; the other attributes are shared."""
    g = torch.Generator().manual_seed(5)
    offsets = 0.1 * torch.randn(frames, *tensors["means"].shape, generator=g)
    views = torch.stack([look(0.1 * f).float() for f in range(frames)])
    return {**tensors, "means": tensors["means"] + offsets, "viewmats": views}


def test_batch_equals_its_frames():
    tensors, K, width, height = float_scene()
    batch = moving(tensors, 5)
    images, _ = draw(batch, K, width, height)
    assert images[0].shape == (5, height, width, 3) and images[1].shape == images[2].shape == (
        5,
        height,
        width,
        1,
    )
    for f in range(5):
        single, _ = draw(
            {**batch, "means": batch["means"][f], "viewmats": batch["viewmats"][f]}, K, width, height
        )
        for whole, one in zip(images, single):
            assert torch.equal(whole[f], one)


def test_shared_arguments_get_the_sum_of_the_gradients():
    tensors, K, width, height = float_scene()
    batch = moving(tensors, 4)
    _, shared = draw(batch, K, width, height)
    repeated = {k: v if v.ndim > tensors[k].ndim else v.expand(4, *v.shape) for k, v in batch.items()}
    _, separate = draw(repeated, K, width, height)
    for key, gradient in shared.items():
        if gradient.shape == separate[key].shape:
            assert torch.equal(gradient, separate[key]), key
        else:
            assert relative_error(gradient, separate[key].double().sum(0)) < 1e-6, key


def test_frames_by_cameras_broadcast():
    tensors, K, width, height = float_scene(200, 40)
    means = torch.stack([tensors["means"], tensors["means"] * 1.1])[:, None]  # (2 frames, 1, N, 3)
    views = torch.stack([look(0.2 * c).float() for c in range(3)])  # (3 cameras, 4, 4)
    colors = torch.rand(3, 200, 3)  # one set of colours per camera
    images, gradients = draw(
        {**tensors, "means": means, "viewmats": views, "colors": colors}, K, width, height
    )
    assert images[0].shape == (2, 3, height, width, 3)
    assert gradients["means"].shape == means.shape and gradients["colors"].shape == colors.shape
    single, _ = draw(
        {**tensors, "means": means[1, 0], "viewmats": views[2], "colors": colors[2]}, K, width, height
    )
    assert torch.equal(images[0][1, 2], single[0])


def test_empty_batch():
    tensors, K, width, height = float_scene(10, 20)
    images, gradients = draw({**tensors, "viewmats": torch.zeros(0, 4, 4)}, K, width, height)
    assert images[0].shape == (0, height, width, 3)
    assert float(gradients["means"].abs().sum()) == 0


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("isa", runnable_isas())
def test_same_bits_for_any_number_of_threads_and_any_run(frames, isa):
    scene = random_scene(3000, 150, 131, 2)
    if frames > 1:
        moved = moving({k: v.float() for k, v in scene.tensors.items()}, frames)
        scene = type(scene)({k: v.double() for k, v in moved.items()}, scene.Ks, scene.width, scene.height)
    first = render(scene, threads=1, isa=isa)
    for threads in (1, 2, 3, 2):
        again = render(scene, threads=threads, isa=isa)
        for ours, theirs in zip(first, again):
            for key in ours:
                assert torch.equal(ours[key], theirs[key]), (threads, key)


def test_simd_builds_agree():
    scene = random_scene(2000, 100, 90, 4)
    builds = {isa: render(scene, isa=isa) for isa in runnable_isas()}
    assert "portable" in builds
    images, gradients = builds["portable"]
    for other_images, other_gradients in builds.values():
        for key in images:
            assert (images[key] - other_images[key]).abs().max() < 2e-5, key
        for key in gradients:
            assert relative_error(other_gradients[key], gradients[key]) < 5e-5, key


def test_several_python_threads_at_once():
    tensors, K, width, height = float_scene(1500, 90)
    scenes = [{**tensors, "means": tensors["means"] + 0.02 * k} for k in range(4)]
    expected = [draw(scene, K, width, height, threads=1) for scene in scenes]
    wrong = []

    def work(k):
        for _ in range(10):
            images, gradients = draw(scenes[k], K, width, height, threads=1 + k % 2)
            same = all(torch.equal(a, b) for a, b in zip(images, expected[k][0]))
            same &= all(torch.equal(gradients[key], expected[k][1][key]) for key in gradients)
            if not same:
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_backward_twice_and_after_other_calls():
    tensors, K, width, height = float_scene()
    leaves = {k: v.clone().requires_grad_() for k, v in tensors.items()}
    colors, _ = rasterize(*(leaves[k] for k in ATTRIBUTES), K, width, height)
    first = torch.autograd.grad(colors.sum(), leaves["means"], retain_graph=True)[0]
    draw({**tensors, "means": tensors["means"] + 0.3}, K, width, height)  # reuses scratch memory
    assert torch.equal(first, torch.autograd.grad(colors.sum(), leaves["means"])[0])


def test_only_wanted_gradients_and_strided_gradients():
    tensors, K, width, height = float_scene()
    colors = tensors["colors"].clone().requires_grad_()
    image, alpha = rasterize(
        *(tensors[k] for k in ATTRIBUTES[:4]), colors, tensors["viewmats"], K, width, height
    )
    weights = torch.rand(height, width, 3)
    planar = weights.movedim(-1, 0).contiguous().movedim(0, -1)
    a = torch.autograd.grad(image, colors, weights, retain_graph=True)[0]
    b = torch.autograd.grad(image, colors, planar, retain_graph=True)[0]
    c = torch.autograd.grad((image * weights).sum() + 0 * alpha.sum(), colors)[0]
    assert torch.equal(a, b) and torch.equal(a, c)


def test_no_grad_gives_the_same_image_and_planar_memory():
    tensors, K, width, height = float_scene()
    arguments = [tensors[k] for k in ATTRIBUTES]
    with torch.no_grad():
        image, alpha = rasterize(*arguments, K, width, height, background=tensors["background"])
    assert not image.requires_grad and image.movedim(-1, -3).is_contiguous()
    arguments[0] = arguments[0].clone().requires_grad_()
    other, _ = rasterize(*arguments, K, width, height, background=tensors["background"])
    assert other.requires_grad and torch.equal(image, other.detach()) and alpha.shape == (height, width, 1)


def test_image_background_is_composited():
    tensors, K, width, height = float_scene()
    arguments = [tensors[k] for k in ATTRIBUTES]
    plain, alpha = rasterize(*arguments, K, width, height)
    picture = torch.rand(height, width, 3)
    image, _ = rasterize(*arguments, K, width, height, background=picture)
    assert torch.allclose(image, plain + (1 - alpha) * picture)
    flat, _ = rasterize(*arguments, K, width, height, background=torch.tensor([0.2, 0.4, 0.6]))
    wide, _ = rasterize(
        *arguments, K, width, height, background=torch.tensor([0.2, 0.4, 0.6]).expand(height, width, 3)
    )
    assert torch.allclose(flat, wide, atol=1e-6)


def test_memory_does_not_grow():
    import resource

    tensors, K, width, height = float_scene(5000, 128)
    for _ in range(5):
        draw(tensors, K, width, height, threads=2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(60):
        draw(tensors, K, width, height, threads=2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024  # KiB
