"""Detail particles: on a striped shirt they pay, and they stay off what has to part."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from avatar_core.geometry.camera import look_at
from avatar_core.particles.background import Background
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.layout import REGIONS, make_layout
from avatar_core.perception.foreground import Matte
from avatar_core.personalise.appearance import make_particles
from avatar_core.personalise.config import RefineConfig
from avatar_core.personalise.detail import add_detail, moving, pattern
from avatar_core.personalise.refine import FLAT, RISE, gamut, refine
from avatar_core.personalise.surface import silhouette
from avatar_core.personalise.view import View, psnr, render
from avatar_core.template import load_template, pose_template, relaxed_rotvecs
from avatar_core.template.landmarks import FACE_LANDMARKS

SIZE = 192
BUDGETS = {"face": 500, "hand": 150, "eyes": 60, "mouth_interior": 60, "body": 700}
CONFIG = RefineConfig(steps=15, sharp_steps=40)


def _portrait(height_m: float, angle: float):
    """A template person in stripes all over (face too), as particles before refinement: view, template, layout, particles."""
    template, layout = load_template(), make_layout(ParticleBudgets(**BUDGETS))
    vertices = pose_template(template, np.zeros(10, np.float32), relaxed_rotvecs())
    camera = look_at((0, -4.2, height_m), (0, 0, height_m), angle, SIZE, SIZE)
    person = silhouette(vertices, template.faces, camera)
    image = np.full((SIZE, SIZE, 3), 0.8, np.float32)
    rows = np.nonzero(person)[0]
    image[person] = np.where((rows[:, None] // 4) % 2, [0.9, 0.9, 0.85], [0.1, 0.4, 0.25])
    backdrop = Background.plain(np.full(3, 0.8))
    matte = Matte(person.astype(np.float32), person, person, image, image, backdrop)
    particles = make_particles(template, layout, vertices, camera, matte, 0, 0)
    view = View.of(camera, image, backdrop.image(SIZE, SIZE), matte.alpha, matte.colors)
    return view, template, layout, particles


def _psnr(particles, view) -> float:
    with torch.no_grad():
        image, _ = render(view, particles.splats())
    return psnr(image.numpy(), view.target.numpy(), view.mask.numpy() > 0.5)


@pytest.fixture(scope="module")
def stripes():
    return _portrait(1.25, 17.0)


def test_detail_holds_stripes_that_base_particles_cannot(stripes):
    view, template, layout, particles = stripes
    coarse = refine(particles, view, None, CONFIG)
    detailed = add_detail(coarse, view, template, layout, 1500, 0)
    assert 500 < len(detailed.means) - len(coarse.means) <= 1500
    plain = _psnr(refine(coarse, view, None, CONFIG, sharp=True), view)
    assert _psnr(refine(detailed, view, None, CONFIG, sharp=True), view) > plain + 3


def test_detail_lies_on_the_seen_surface_near_its_anchor(stripes):
    view, template, layout, particles = stripes
    detailed = add_detail(particles, view, template, layout, 1500, 0)
    n, old = particles.n_base, len(particles.means)
    anchor = detailed.anchor[old:]
    assert detailed.n_base == n and (anchor < n).all() and particles.seen[anchor].all()
    lever = detailed.means[old:] - detailed.means[anchor]
    assert np.linalg.norm(lever, axis=1).max() < 0.1
    assert np.exp(detailed.log_scales[old:]).max() < 0.007
    assert (detailed.region[old:] == layout.region[anchor]).all()
    # Fingers bend and hide each other: detail on them ends up beside them.
    assert not np.isin(detailed.region[old:], [REGIONS["hand_left"], REGIONS["hand_right"]]).any()


def test_no_detail_on_lips_lids_or_eyes():
    # Close to the face, which is striped like the rest: without the guard most particles would land on it.
    view, template, layout, particles = _portrait(1.58, 4.0)
    detailed = add_detail(particles, view, template, layout, 2000, 0)
    new = slice(len(particles.means), None)
    assert (detailed.region[new] == 1).sum() > 100
    assert not moving(template, layout, 0.012)[detailed.anchor[new]].any()
    vertices = pose_template(template, np.zeros(10, np.float32), relaxed_rotvecs())
    lips = vertices[template.vertex_of_base[list(FACE_LANDMARKS["lips_inner"])]]
    gap = np.linalg.norm(detailed.means[new, None] - lips[None], axis=-1).min()
    assert gap > 0.006


def test_it_is_deterministic_and_adds_nothing_without_budget(stripes):
    view, template, layout, particles = stripes
    a, b = (add_detail(particles, view, template, layout, 300, 4) for _ in range(2))
    assert (a.means == b.means).all() and (a.anchor == b.anchor).all()
    assert add_detail(particles, view, template, layout, 0, 0) is particles


def test_pattern_follows_stripes():
    image = np.zeros((32, 32, 3), np.float32)
    image[::8] = image[1::8] = image[2::8] = 1
    direction, strength = pattern(image)
    assert np.abs(direction[8:24, 8:24, 0]).min() > 0.99 and strength[8:24, 8:24].max() > 0.9


def test_flat_particles_stay_flat_on_their_surface(stripes):
    """One view does not see particles that stand up; the next one does."""
    view, template, layout, particles = stripes
    coarse = refine(particles, view, None, CONFIG)
    detailed = add_detail(coarse, view, template, layout, 1500, 0)
    sharp = refine(detailed, view, None, CONFIG, sharp=True)
    before, after = _thin_axis(detailed), _thin_axis(sharp)
    tilt = np.degrees(np.arccos(np.clip(np.abs((before * after).sum(1)), 0, 1)))
    turned = np.linalg.norm(sharp.quats - detailed.quats, axis=1)
    assert np.quantile(turned, 0.9) > 0.05  # they turn in their plane
    assert np.quantile(tilt, 0.99) < 15
    flat = detailed.log_scales[:, 2] < detailed.log_scales[:, :2].min(1) - FLAT
    assert flat.mean() > 0.8
    # No thicker than before, but where a particle that grew would become a shard.
    limit = np.maximum(detailed.log_scales[:, 2], sharp.log_scales.max(1) - 2.3)
    assert (sharp.log_scales[flat, 2] <= limit[flat] + 1e-4).all()
    rise = np.abs(((sharp.means - detailed.means) * before).sum(1))[flat]
    assert rise.max() <= RISE * CONFIG.shell_reach_m + 1e-6


def _thin_axis(particles) -> np.ndarray:
    return Rotation.from_quat(particles.quats[:, [1, 2, 3, 0]]).as_matrix()[:, :, 2]


def test_particles_keep_to_colours_that_the_portrait_shows_near_them(stripes):
    view, _, _, particles = stripes
    refined = refine(refine(particles, view, None, CONFIG), view, None, CONFIG, sharp=True)
    darkest, brightest = (bound.numpy() for bound in gamut(refined, view))
    seen = refined.seen
    assert seen.sum() > 300
    # The portrait has two colours: 4 % beyond each is all the leave there is.
    assert (refined.colors[seen] >= np.array([0.1, 0.4, 0.25]) - 0.0401).all()
    assert (refined.colors[seen] <= np.array([0.9, 0.9, 0.85]) + 0.0401).all()
    # Unseen ones stay about where they are.
    assert (brightest - darkest)[~seen].max() <= 0.0801
