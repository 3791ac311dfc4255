"""The canonical avatar: its files, and how sharp it is from any distance."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from avatar_core.errors import UserError
from avatar_core.geometry.camera import Camera, look_at
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.canonical import load_canonical, save_canonical, view_blur
from avatar_core.particles.layout import make_layout
from avatar_core.particles.splats import PORTRAIT_BLUR, Splats, rasterize_splats
from tests.fit.clip_scene import make_canonical


@pytest.fixture(scope="module")
def canonical():
    return make_canonical(
        make_layout(
            ParticleBudgets(**{"face": 300, "hand": 80, "eyes": 40, "mouth_interior": 40, "body": 400})
        )
    )


def test_files_give_back_the_same_avatar(canonical, tmp_path):
    save_canonical(tmp_path / "person.safetensors", canonical)
    again = load_canonical(tmp_path / "person.safetensors")
    for field in fields(canonical):
        if field.name != "background":
            np.testing.assert_array_equal(getattr(again, field.name), getattr(canonical, field.name))


def test_file_of_an_older_version_is_named(canonical, tmp_path):
    path = tmp_path / "person.safetensors"
    save_canonical(path, canonical)
    sidecar = path.with_suffix(".json")
    sidecar.write_text(sidecar.read_text().replace('"pixel"', '"pixels"'))
    with pytest.raises(UserError, match="person.safetensors"):
        load_canonical(path)


def test_blur_is_the_portraits_at_the_portraits_distance(canonical):
    depth, focal = 3.0, 2000.0
    middle = canonical.means[: canonical.n_base].mean(0)
    person = replace(canonical, pixel=depth / focal)
    for share in (1.0, 0.5, 2.0):
        camera = look_at(middle - [0, depth, 0], middle, 10.0, 64, 64)
        K = camera.K.copy()
        K[0, 0] = K[1, 1] = share * focal
        assert person.eps2d(replace(camera, K=K)) == pytest.approx(view_blur(share), rel=1e-4)
    assert view_blur(1.0) == PORTRAIT_BLUR
    assert view_blur(3.0) == pytest.approx(9 * PORTRAIT_BLUR)  # magnified, nothing falls apart
    assert view_blur(1e-3) == pytest.approx(1 / 12, rel=1e-3)  # far away, a pixel's own width is left


def test_fine_stripes_seen_from_further_away_stay_stripes():
    """Stripes fitted at one size, drawn at 0.4 of it, against the large picture made small."""
    rows = torch.arange(0, 240, dtype=torch.float32)
    y, x = torch.meshgrid(rows, torch.arange(0.0, 60.0, 2.0), indexing="ij")
    flat = torch.stack([x.flatten() + 0.5, y.flatten() + 0.5, torch.full((y.numel(),), 100.0)], 1)
    scales = torch.tensor([1.2, 0.45, 0.1]).expand(len(flat), 3).contiguous()
    quats = torch.tensor([1.0, 0, 0, 0]).expand(len(flat), 4).contiguous()
    colors = ((flat[:, 1:2] // 8) % 2).expand(-1, 3).contiguous()
    splats = Splats(flat, quats, scales, torch.full((len(flat),), 0.9), colors)

    def draw(share: float, eps2d: float) -> torch.Tensor:
        K = np.diag([100 * share, 100 * share, 1])
        camera = Camera(np.eye(4), K, round(60 * share), round(240 * share))
        return rasterize_splats(splats, camera, eps2d=eps2d)[0]

    large = draw(1.0, PORTRAIT_BLUR).movedim(-1, 0)[None]
    small = torch.nn.functional.interpolate(large, size=(96, 24), mode="area")[0].movedim(0, -1)
    error = [float((draw(0.4, eps2d) - small).square().mean()) for eps2d in (PORTRAIT_BLUR, view_blur(0.4))]
    assert error[1] < 0.4 * error[0]
