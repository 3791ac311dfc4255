"""Never wrong, never down: odd inputs give the reference's image and finite gradients, or a ValueError naming the argument."""

import math

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from render_scenes import Scene, random_scene, render

from avatar_core.render import rasterize, reference

NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats")


def small(count=6, size=20, seed=0):
    scene = random_scene(count, size, size, seed)
    return {k: scene.tensors[k].float() for k in NAMES}, scene.Ks.float()


def draw(tensors, K, width=20, height=20, **options):
    leaves = {k: v.clone().requires_grad_() for k, v in tensors.items()}
    color, alpha = rasterize(*(leaves[k] for k in NAMES), K, width, height, **options)
    (color.square().sum() + alpha.sum()).backward()
    return color.detach(), alpha.detach(), {k: v.grad for k, v in leaves.items()}


def assert_finite(color, alpha, gradients):
    assert torch.isfinite(color).all() and torch.isfinite(alpha).all()
    for key, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), key


quaternions = st.sampled_from(
    [
        (0.0, 0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, -3.0, 0.0),
        (1e-20, 1e-20, 0.0, 0.0),
        (0.3, -0.7, 0.2, 1e8),
    ]
)
# A turn in float32 is off by 6e-8: the edge of a sheet of 1e6 m by pixels, so larger ones need only be finite (below).
lengths = st.one_of(st.sampled_from([0.0, 1e-8, 0.01, 0.3, 10.0, 1e3]), st.floats(2**-10, 1.0, width=32))
coordinates = st.one_of(st.floats(-2.0, 2.0, width=32), st.sampled_from([0.0, -1e6, 1e6, 1e20]))
depths = st.one_of(st.floats(-1.0, 4.0, width=32), st.sampled_from([-1e6, 1e6, 0.0]))
splats = st.tuples(
    st.tuples(coordinates, coordinates, depths),
    quaternions,
    st.tuples(lengths, lengths, lengths),
    st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0, width=32)),
    st.tuples(*(st.floats(-1.0, 2.0, width=32) for _ in range(3))),
)


@settings(max_examples=60, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(
    splats=st.lists(splats, max_size=24),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    alpha_max=st.sampled_from([0.999, 0.99, 1.0]),
    eps2d=st.sampled_from([0.3, 0.05]),
    near_plane=st.sampled_from([0.01, 0.5]),
)
def test_any_scene_equals_the_reference(splats, width, height, alpha_max, eps2d, near_plane):
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*splats)] or [
        torch.zeros(0, dtype=torch.float64)
    ] * 5
    shapes = ((3,), (4,), (3,), (), (3,))
    tensors = {
        name: column.double().reshape(len(splats), *shape)
        for name, column, shape in zip(NAMES, columns, shapes)
    }
    view = torch.eye(4, dtype=torch.float64)
    view[2, 3] = 1.0
    focal = float(max(width, height))
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    options = dict(alpha_max=alpha_max, eps2d=eps2d, near_plane=near_plane)
    scene = Scene(
        {**tensors, "viewmats": view, "background": torch.tensor([0.1, 0.5, 0.9]).double()},
        K,
        width,
        height,
        options,
    )
    images, gradients = render(scene)
    assert_finite(images["colors"], images["alphas"], gradients)
    expected, _ = render(scene, "reference")
    wrong = (images["colors"].double() - expected["colors"]).abs().amax(1) > 2e-4
    # rounding may put a splat on the other side of a threshold, on few pixels
    assert int(wrong.sum()) <= max(2, 0.01 * width * height)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_not_finite_names_the_argument(name, value, backend):
    tensors, K = small(600)
    tensors[name].view(-1)[-1 if name != "viewmats" else 5] = value
    with pytest.raises(ValueError, match=rf"^{name}: expected finite"):
        draw(tensors, K, backend=backend)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(width=0), "width"),
        (dict(height=-3), "height"),
        (dict(width=20.5), "width"),
        (dict(width=1 << 20), "width"),
        (dict(eps2d=-1.0), "eps2d"),
        (dict(eps2d=math.nan), "eps2d"),
        (dict(alpha_max=1.5), "alpha_max"),
        (dict(alpha_min=-0.1), "alpha_min"),
        (dict(transmittance_min=math.inf), "transmittance_min"),
        (dict(near_plane=-0.1), "near_plane"),
        (dict(threads=0), "threads"),
        (dict(backend="gpu"), "backend"),
    ],
)
def test_bad_settings_name_the_argument(options, named):
    tensors, K = small()
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        draw(tensors, K, **options)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("means", (6, 2)),
        ("quats", (5, 4)),
        ("scales", (6,)),
        ("opacities", (7,)),
        ("colors", (6, 4)),
        ("viewmats", (3, 4)),
    ],
)
def test_bad_shapes_name_the_argument(name, shape):
    tensors, K = small()
    tensors[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"^{name}: expected shape"):
        draw(tensors, K)


def test_batch_dims_that_do_not_broadcast():
    tensors, K = small()
    tensors["means"] = tensors["means"].expand(2, 6, 3)
    tensors["colors"] = tensors["colors"].expand(3, 6, 3)
    with pytest.raises(ValueError, match="do not broadcast"):
        draw(tensors, K)


def test_bad_camera_and_background():
    tensors, K = small()
    with pytest.raises(ValueError, match=r"^Ks: expected"):
        draw(tensors, K * torch.tensor([[-1.0], [1.0], [1.0]]))
    with pytest.raises(ValueError, match=r"^background: expected"):
        draw(tensors, K, background=torch.tensor([0.0, math.nan, 0.0]))
    with pytest.raises(ValueError, match=r"^means: expected a floating-point"):
        rasterize(tensors["means"].int(), *(tensors[k] for k in NAMES[1:]), K, 20, 20)


def test_no_splats_shows_the_background():
    tensors, K = small(0)
    color, alpha, gradients = draw(tensors, K, background=torch.tensor([0.25, 0.5, 0.75]))
    assert (
        torch.equal(color, torch.tensor([0.25, 0.5, 0.75]).expand(20, 20, 3))
        and float(alpha.abs().max()) == 0
    )
    assert gradients["means"].shape == (0, 3)


def test_all_behind_the_camera():
    tensors, K = small()
    tensors["means"] = tensors["means"] - 50 * tensors["viewmats"][2, :3]
    color, alpha, gradients = draw(tensors, K)
    assert float(color.abs().max()) == 0 and float(alpha.abs().max()) == 0
    for gradient in gradients.values():
        assert float(gradient.abs().max()) == 0


def test_thousands_of_splats_on_one_pixel():
    count = 5000
    g = torch.Generator().manual_seed(0)
    tensors = {
        "means": torch.tensor([0.011, 0.013, 2.0]) + 1e-4 * torch.randn(count, 3, generator=g),
        "quats": torch.randn(count, 4, generator=g),
        "scales": torch.full((count, 3), 1e-3),
        "opacities": torch.full((count,), 0.01),
        "colors": torch.rand(count, 3, generator=g),
        "viewmats": torch.eye(4),
    }
    K = torch.tensor([[30.0, 0, 10], [0, 30, 10], [0, 0, 1]])
    color, alpha, gradients = draw(tensors, K)
    assert_finite(color, alpha, gradients)
    wide, _ = rasterize(*(tensors[k].double() for k in NAMES), K.double(), 20, 20, backend="reference")
    assert (color - wide).abs().max() < 1e-4 and float(alpha.max()) > 0.9


def test_opaque_splat_with_alpha_max_one_ends_the_pixel():
    """gsplat's rule: a splat that would take a pixel to transmittance_min or less is not drawn on it."""
    tensors, K = small(1)
    tensors["means"], tensors["scales"] = torch.zeros(1, 3), torch.full((1, 3), 1e6)
    tensors["opacities"] = torch.ones(1)
    color, alpha, gradients = draw(tensors, K, alpha_max=1.0)
    assert float(alpha.abs().max()) == 0
    assert_finite(color, alpha, gradients)
    color, alpha, gradients = draw(tensors, K, alpha_max=0.99)
    assert torch.allclose(alpha, torch.tensor(0.99))
    assert_finite(color, alpha, gradients)


def test_4096_pixels():
    scene = random_scene(300, 4096, 4096, 3, sigma_px=40.0)
    tensors = {k: scene.tensors[k].float() for k in NAMES}
    leaves = {k: v.clone().requires_grad_() for k, v in tensors.items()}
    color, _ = rasterize(*(leaves[k] for k in NAMES), scene.Ks.float(), 4096, 4096)
    color[1500:1540, 2000:2040].sum().backward()
    assert torch.isfinite(color).all()
    t, numbers = scene.tensors, scene.settings()  # the reference at the pixels of the crop alone
    centres, conics, z, _ = reference.project(
        t["means"], t["quats"], t["scales"], t["viewmats"], scene.Ks, numbers
    )
    near = torch.argsort(z)[(torch.sort(z)[0] > numbers.near_plane)]
    x, y = torch.meshgrid(torch.arange(2000, 2040) + 0.5, torch.arange(1500, 1540) + 0.5, indexing="xy")
    pixels = torch.stack([x, y], -1).reshape(-1, 2).double()
    parts = (centres[near], conics[near], t["opacities"][near], t["colors"][near])
    expected, _ = reference.blend(pixels, *parts, numbers)
    crop = color.detach()[1500:1540, 2000:2040].reshape(-1, 3).double()
    assert float(expected.max()) > 0.1 and (crop - expected).abs().max() < 1e-4
    assert torch.isfinite(leaves["means"].grad).all() and float(leaves["means"].grad.abs().max()) > 0


def test_long_thin_splats_keep_their_digits():
    """A needle 4000 px long and under a pixel wide, diagonal: its alpha must not drown in rounding."""
    angle = math.pi / 4
    tensors = {
        "means": torch.tensor([[0.0, 0.0, 1.0]]),
        "quats": torch.tensor([[math.cos(angle / 2), 0, 0, math.sin(angle / 2)]]),
        "scales": torch.tensor([[10.0, 1e-4, 1e-4]]),
        "opacities": torch.tensor([0.9]),
        "colors": torch.ones(1, 3),
        "viewmats": torch.eye(4),
    }
    K = torch.tensor([[400.0, 0, 100], [0, 400, 100], [0, 0, 1]])
    color, alpha, gradients = draw(tensors, K, 200, 200)
    assert_finite(color, alpha, gradients)
    exact, _ = rasterize(*(tensors[k].double() for k in NAMES), K.double(), 200, 200, backend="reference")
    assert (color - exact).abs().max() < 1e-3 and float(exact.max()) > 0.8


def test_float64_input_to_the_cpu_backend():
    tensors, K = small(50)
    doubles = {k: v.double().requires_grad_() for k, v in tensors.items()}
    color, _ = rasterize(*(doubles[k] for k in NAMES), K, 20, 20)
    color.sum().backward()
    assert color.dtype == torch.float32 and doubles["means"].grad.dtype == torch.float64
