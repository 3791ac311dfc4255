"""Several portraits refined in common steps come out as one after the other."""

from dataclasses import replace

import numpy as np
import pytest

from avatar_core.device import Compute
from avatar_core.errors import UserError
from avatar_core.personalise import personalise as module
from avatar_core.personalise.config import RefineConfig
from avatar_core.personalise.refine import refine
from avatar_core.personalise.refine_together import Portrayed, refine_together
from tests.device.conftest import portrait

CONFIG = RefineConfig(steps=4, sharp_steps=4)


@pytest.fixture(scope="module")
def portraits():
    """Two of other sizes, numbers of particles and colours; the second without a closer look."""
    particles, view = portrait()
    every = np.flatnonzero(np.arange(len(particles.means)) % 7 > 0)
    arrays = {k: v[every] for k, v in vars(particles).items() if isinstance(v, np.ndarray)}
    fewer = replace(particles, **arrays, n_base=len(every))
    fewer = replace(fewer, colors=fewer.colors[:, ::-1].copy())
    return [
        Portrayed(particles, view, view.crop(20, 20, 40, 40), (20, 20, 40)),
        Portrayed(fewer, view.crop(8, 4, 80, 72), None, (12, 20, 40)),
    ]


@pytest.mark.parametrize("sharp", [False, True])
def test_they_are_refined_as_one_by_one(portraits, sharp):
    alone = [refine(p.particles, p.view, p.face_view, CONFIG, sharp=sharp, focus=p.focus) for p in portraits]
    together = refine_together(portraits, CONFIG, names=["a", "b"], sharp=sharp)
    for one, many, p in zip(alone, together, portraits, strict=True):
        assert np.abs(one.means - many.means).max() < 2e-5  # m
        assert np.abs(one.colors - many.colors).max() < 2e-3
        assert np.abs(one.log_scales - many.log_scales).max() < 5e-3
        assert np.abs(one.logit_opacities - many.logit_opacities).max() < 5e-3
        assert np.abs(many.colors - p.particles.colors).max() > 0.02  # and they were refined


def test_one_that_diverges_is_named(portraits):
    view = portraits[1].view
    broken = replace(portraits[1], view=replace(view, target=view.target * np.nan))
    with pytest.raises(UserError, match=r"^b\.png: portrait: refinement diverged"):
        refine_together([portraits[0], broken], CONFIG, names=["a.png", "b.png"])


def test_a_card_refines_together_and_the_cpu_one_by_one(portraits, monkeypatch):
    called = []
    monkeypatch.setattr(module, "refine_together", lambda of, *_, **__: called.append(len(of)) or [])
    names = ["a", "b"]
    module._refine_all(portraits, names, CONFIG, compute=Compute("meta"))
    assert called == [2]
    found = module._refine_all(portraits, names, CONFIG, compute=Compute())
    one = refine(
        portraits[0].particles, portraits[0].view, portraits[0].face_view, CONFIG, focus=portraits[0].focus
    )
    assert called == [2] and np.array_equal(found[0].means, one.means)  # the same bytes
