"""Particles and the person's outline: drawn in, hidden outside, going on beyond the picture's border."""

from dataclasses import replace

import numpy as np
import torch

from avatar_core.geometry.camera import look_at
from avatar_core.particles.background import Background
from avatar_core.perception.foreground import Matte
from avatar_core.personalise.appearance import PortraitParticles
from avatar_core.personalise.border import STRIP, continued
from avatar_core.personalise.inside import GONE, NEAR_M, draw_in
from avatar_core.personalise.outside import beside, hide_below_arms, hide_outside, rows_to_outside
from avatar_core.personalise.sleeves import Arms
from avatar_core.personalise.view import View, render

SIZE = 100


def _scene():
    """A camera 2 m away and a person who covers the middle of the picture down to its lower border."""
    camera = look_at((0, -2, 1), (0, 0, 1), 30.0, SIZE, SIZE)
    alpha = np.zeros((SIZE, SIZE), np.float32)
    alpha[20:, 30:70] = 1
    colors = np.zeros((SIZE, SIZE, 3), np.float32)
    colors[:] = [0.9, 0.2, 0.1]
    colors[-1] = [0.1, 0.2, 0.9]
    behind = Background.plain(np.array([0.2, 0.6, 0.3]))
    picture = alpha[..., None] * colors + (1 - alpha[..., None]) * behind.image(SIZE, SIZE)
    return camera, Matte(alpha, alpha > 0.5, alpha > 0.5, colors, picture, behind)


def _particles(means: np.ndarray) -> PortraitParticles:
    n = len(means)
    quats = np.tile([1.0, 0, 0, 0], (n, 1))
    return PortraitParticles(
        means=means,
        quats=quats,
        log_scales=np.full((n, 3), np.log(0.01)),
        logit_opacities=np.full(n, 2.0),
        colors=np.full((n, 3), 0.5),
        region=np.zeros(n, np.uint8),
        anchor=np.arange(n, dtype=np.int32),
        seen=np.ones(n, bool),
        facing=np.ones(n),
        n_base=n,
    )


def test_particles_a_little_beside_the_matte_are_drawn_in_and_far_ones_are_lost():
    camera, matte = _scene()
    depth = np.full(4, 2.0)
    pixels = np.array(
        [[50.0, 60], [29.2, 60], [10, 60], [50, 130]]
    )  # inside, beside, far, out of the picture
    means = camera.unproject(pixels, depth)
    moved, lost = draw_in(means, camera, matte.alpha)
    assert lost.tolist() == [False, False, True, False]
    np.testing.assert_array_equal(moved[[0, 2, 3]], means[[0, 2, 3]])
    xy, again = camera.project(moved)
    assert xy[1, 0] >= 30 and abs(xy[1, 1] - 60) < 1.5 and abs(again[1] - 2) < 1e-6
    assert 0 < np.linalg.norm(moved[1] - means[1]) < NEAR_M + 0.01


def test_what_shows_beside_the_person_is_hidden():
    camera, matte = _scene()
    view = View.of(camera, matte.picture, matte.background.image(SIZE, SIZE), matte.alpha, matte.colors)
    pixels = np.array([[50.0, 60], [20, 60], [29, 60]])
    particles = _particles(camera.unproject(pixels, np.full(3, 2.0)))

    def outside(which: PortraitParticles) -> float:
        with torch.no_grad():
            _, alpha = render(view, which.splats())
        return float((alpha * beside(view)).sum() / alpha.sum())

    assert outside(particles) > 0.3
    kept = hide_outside(particles, view)
    assert kept.logit_opacities[0] == 2.0 and kept.logit_opacities[1] == GONE
    assert outside(kept) < 0.005


def test_a_body_that_ends_behind_a_forearm_stays_there():
    camera, matte = _scene()
    alpha = matte.alpha.copy()
    alpha[80:] = 0  # a table
    view = View.of(camera, matte.picture, matte.background.image(SIZE, SIZE), alpha, matte.colors)
    across = np.arange(35.0, 66, 3)
    arm = np.stack([across, np.full_like(across, 77)], 1)
    body = np.array([[50.0, 77], [50, 40], [50, 65]])  # behind the arm, far above it, not behind it
    means = camera.unproject(np.concatenate([arm, body]), np.r_[np.full(len(arm), 1.8), np.full(3, 2.0)])
    particles = replace(_particles(means), log_scales=np.full((len(means), 3), np.log(0.02)))
    side, along = np.full(len(means), -1), np.full(len(means), np.nan)
    side[: len(arm)], along[: len(arm)] = 0, np.linspace(1, 2.1, len(arm))
    kept = hide_below_arms(particles, view, Arms(side, along)).logit_opacities
    assert kept[len(arm)] == GONE and (np.delete(kept, len(arm)) == 2.0).all()
    # beside an arm that hangs the body goes on
    hanging = means.copy()
    hanging[: len(arm)] = camera.unproject(
        np.stack([np.full(len(arm), 50.0), np.linspace(60, 78, len(arm))], 1), np.full(len(arm), 1.8)
    )
    kept = hide_below_arms(replace(particles, means=hanging), view, Arms(side, along))
    assert (kept.logit_opacities == 2.0).all()


def test_rows_to_what_is_outside_straight_below():
    outside = np.zeros((4, 2), bool)
    outside[2, 0] = True
    assert rows_to_outside(outside).tolist() == [[2, np.inf], [1, np.inf], [0, np.inf], [np.inf, np.inf]]


def test_the_person_goes_on_where_the_picture_cuts_the_body():
    camera, matte = _scene()
    whole = continued(matte, camera)
    strip = round(STRIP * SIZE)
    assert whole.matte.alpha.shape == (SIZE + strip, SIZE) == (whole.camera.height, whole.camera.width)
    assert (whole.corner == 0).all()  # the head and the sides are free
    assert whole.matte.alpha[-1, 30:70].min() == 1 and whole.matte.alpha[-1, :30].max() == 0
    np.testing.assert_allclose(whole.matte.colors[-1, 50], [0.1, 0.2, 0.9])
    assert whole.behind.shape == (SIZE + strip, SIZE, 3)
    point = np.array([[0.1, 0.0, 1.1]])
    np.testing.assert_allclose(whole.camera.project(point)[0], camera.project(point)[0])


def test_a_strip_above_moves_the_corner():
    camera, matte = _scene()
    arrays = {n: getattr(matte, n)[::-1].copy() for n in ("alpha", "core", "pure", "colors", "picture")}
    turned = replace(matte, **arrays)
    whole = continued(turned, camera)
    assert (whole.corner == [0, round(STRIP * SIZE)]).all()
    point = np.array([[0.1, 0.0, 1.1]])
    np.testing.assert_allclose(
        whole.camera.project(point)[0], camera.project(point)[0] + whole.corner, rtol=1e-5
    )
