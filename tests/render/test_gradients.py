"""The native kernel against float64 autograd of the reference: images to 1e-5, all gradients to 1e-4 relative."""

import pytest
import torch
from render_scenes import INPUTS, Scene, look, random_scene, relative_error, render, runnable_isas

SCENES = {
    "one tile": random_scene(200, 32, 32, 1),
    "not a multiple of a tile": random_scene(300, 77, 45, 2),
    "narrow": random_scene(100, 3, 130, 3),
    "one pixel": random_scene(20, 1, 1, 4),
    "opaque": random_scene(400, 64, 64, 5, sigma_px=9.0),
    "across the border": random_scene(250, 50, 50, 6, spread=2.5, sigma_px=12.0),
    "across the near plane": random_scene(
        150, 60, 52, 7, spread=1.0, distance=0.6, sigma_px=6.0, near_plane=0.4
    ),
    "other settings": random_scene(
        150, 48, 40, 8, eps2d=0.1, alpha_max=0.6, alpha_min=0.02, transmittance_min=0.05, near_plane=0.5
    ),
    "no thresholds": random_scene(60, 40, 40, 9, alpha_min=0.0, transmittance_min=0.0),
}


@pytest.fixture(scope="module")
def expected():
    return {name: render(scene, "reference") for name, scene in SCENES.items()}


@pytest.mark.parametrize("isa", runnable_isas())
@pytest.mark.parametrize("name", SCENES)
def test_equals_float64_autograd(name, isa, expected):
    images, gradients = render(SCENES[name], isa=isa)
    expected_images, expected_gradients = expected[name]
    for key, image in images.items():
        assert torch.allclose(
            image.double(), expected_images[key], rtol=0, atol=1e-5 * (5 if key == "depths" else 1)
        ), key
    for key in INPUTS:
        assert float(expected_gradients[key].norm()) > 0, f"{key}: the scene does not exercise this gradient"
        assert relative_error(gradients[key], expected_gradients[key]) < 1e-4, key


def test_near_plane_scene_has_splats_on_both_sides():
    scene = SCENES["across the near plane"]
    depth = scene.tensors["means"] @ scene.tensors["viewmats"][2, :3] + scene.tensors["viewmats"][2, 3]
    assert (depth < 0).sum() > 10 and ((depth > 0) & (depth < 0.4)).sum() > 5 and (depth > 0.4).sum() > 50


def test_border_scene_exercises_the_frustum_clamp():
    scene = SCENES["across the border"]
    _, with_clamp = render(scene)
    point = scene.tensors["means"] @ scene.tensors["viewmats"][:3, :3].T + scene.tensors["viewmats"][:3, 3]
    ratio = (point[:, 0] / point[:, 2]).abs()
    outside = ratio > (0.5 + 0.15) * scene.width / scene.Ks[0, 0] + 0.1
    assert (outside & (point[:, 2] > 0) & (with_clamp["means"].norm(dim=-1) > 0)).sum() > 5


@pytest.mark.parametrize("isa", runnable_isas())
@pytest.mark.parametrize("shown", [(0, 15), (15, 40), (3, 18, 19), (0, 511), tuple(range(0, 600, 7))])
def test_few_visible_splats_among_many(shown, isa):
    """The adjoint works on lots of 16 visible splats: any pattern of visible and hidden ones must do."""
    scene = random_scene(600, 30, 30, 12)
    tensors = dict(scene.tensors)
    tensors["opacities"] = torch.zeros(600, dtype=torch.float64)
    tensors["opacities"][list(shown)] = 0.7
    scene = Scene(tensors, scene.Ks, 30, 30)
    _, gradients = render(scene, isa=isa)
    _, expected = render(scene, "reference")
    for key in INPUTS:
        assert relative_error(gradients[key], expected[key]) < 1e-4, key


def test_clamped_alpha_passes_no_gradient_to_opacity():
    scene = Scene(
        {
            "means": torch.zeros(1, 3),
            "quats": torch.tensor([[1.0, 0, 0, 0]]),
            "scales": torch.full((1, 3), 1e3),
            "opacities": torch.ones(1),
            "colors": torch.ones(1, 3),
            "viewmats": look(0.0).float(),
        },
        torch.tensor([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]),
        16,
        16,
    )
    images, gradients = render(scene)
    assert torch.allclose(images["alphas"], torch.tensor(0.999))
    assert float(gradients["opacities"].abs().max()) == 0 and float(gradients["colors"].abs().max()) > 0


def test_reference_culling_changes_nothing():
    from avatar_core.render.reference import render_frame

    scene = SCENES["not a multiple of a tile"]
    t = scene.tensors
    arguments = (*(t[k] for k in INPUTS[:6]), scene.Ks, t["background"], scene.settings())
    for culled, whole in zip(render_frame(*arguments, cull=True), render_frame(*arguments, cull=False)):
        assert torch.allclose(culled, whole, rtol=0, atol=1e-14)


def test_reference_gradient_is_the_derivative_of_the_image():
    """Guards the specification itself (masks and detached parts) by central differences."""
    scene = random_scene(12, 20, 20, 3, sigma_px=5.0)
    _, gradients = render(scene, "reference")
    g = torch.Generator().manual_seed(11)
    for key in INPUTS:
        direction = torch.randn(scene.tensors[key].shape, generator=g).double()
        if key == "viewmats":
            direction[3] = 0

        def loss(step, key=key, direction=direction):
            moved = {**scene.tensors, key: scene.tensors[key] + step * direction}
            images, _ = render(Scene(moved, scene.Ks, 20, 20), "reference")
            g = torch.Generator().manual_seed(7)
            return sum(
                float((image * torch.randn(image.shape, generator=g)).sum()) for image in images.values()
            )

        slope = (loss(1e-7) - loss(-1e-7)) / 2e-7
        assert slope == pytest.approx(float((gradients[key] * direction).sum()), rel=1e-3, abs=1e-3), key
