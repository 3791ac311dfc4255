"""What a portrait does not show: the light inside the mouth, how large a hand's particles may become."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.device import CPU
from avatar_core.geometry.camera import look_at
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.layout import REGIONS, make_layout
from avatar_core.personalise.appearance import PortraitParticles, completed
from avatar_core.personalise.config import RefineConfig
from avatar_core.personalise.refine import HAND_SIZE, SIZES, Leave
from avatar_core.personalise.sleeves import find_arms
from avatar_core.personalise.view import View
from avatar_core.template import load_template
from avatar_core.template.mesh import PARTS

BUDGETS = ParticleBudgets(face=500, hand=150, eyes=60, mouth_interior=120, body=700)


def particles(skin, eyes) -> PortraitParticles:
    """Of the template at rest: a face of colour skin (3,), eyes of colour eyes (3,), all seen but the mouth's inside."""
    layout = make_layout(BUDGETS)
    n = len(layout)
    colors = np.tile(np.asarray(skin, float), (n, 1))
    colors[layout.region == REGIONS["eyes"]] = eyes
    return PortraitParticles(
        means=layout.points(load_template().vertices),
        quats=np.tile([1.0, 0, 0, 0], (n, 1)),
        log_scales=np.full((n, 3), np.log(0.004)),
        logit_opacities=np.full(n, 2.0),
        colors=colors,
        region=layout.region,
        anchor=np.arange(n, dtype=np.int32),
        seen=layout.region != REGIONS["mouth_interior"],
        facing=np.ones(n),
        n_base=n,
    )


def teeth(skin, eyes) -> np.ndarray:
    """Colour (3,) of the brightest upper teeth."""
    layout, template = make_layout(BUDGETS), load_template()
    made = completed(particles(skin, eyes), template, layout, find_arms(template, layout)).colors
    upper = (layout.region == REGIONS["mouth_interior"]) & (
        template.part[layout.triangles[:, 0]] == PARTS["upper_teeth"]
    )
    return made[upper][made[upper].sum(1).argmax()]


def test_teeth_have_the_light_that_the_whites_of_the_eyes_have():
    day, evening = teeth([0.8, 0.6, 0.5], [0.80, 0.73, 0.70]), teeth([0.8, 0.6, 0.5], [0.80, 0.60, 0.45])
    assert evening[2] / evening[0] < 0.8 * day[2] / day[0]
    # skin of another colour in the same light
    dark = teeth([0.40, 0.26, 0.20], [0.80, 0.73, 0.70])
    assert dark[2] / dark[0] == pytest.approx(day[2] / day[0], rel=0.01)
    assert dark.mean() < day.mean()


def test_a_hands_particles_stay_thinner_than_its_fingers():
    camera = look_at((0, -4.2, 1.25), (0, 0, 1.25), 17.0, 64, 64)
    grey = np.full((64, 64, 3), 0.5, np.float32)
    view = View.of(camera, grey, grey, np.ones((64, 64), np.float32), grey)
    given = particles([0.8, 0.6, 0.5], [0.8, 0.7, 0.7])
    leave = Leave.of(given, view, RefineConfig(), False, CPU)
    change = [torch.zeros_like(p) for p in leave.like()]
    change[2] += 10.0
    free = replace(leave, gate=torch.ones_like(leave.gate))
    size = free.current(change).log_scales.amax(-1)
    hand = torch.from_numpy(np.isin(given.region, (REGIONS["hand_left"], REGIONS["hand_right"])))
    assert size[hand].max() == pytest.approx(HAND_SIZE) and size[~hand].max() == pytest.approx(SIZES[1])
