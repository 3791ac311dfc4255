"""What a motion costs in the fit before any picture is seen."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from avatar_core.fit.clip_refine import motion_prior
from avatar_core.fit.config import FitConfig, FitWeights
from avatar_core.fit.losses import highpass

FRAMES, TIGHT = 8, torch.tensor([1.0, 3.0])


def prior(switches: FitWeights, **motion: torch.Tensor) -> float:
    """Two nodes an edge apart, the second held three times as tight; what is not given rests."""
    rest = {name: torch.zeros(FRAMES, 2, 3) for name in ("shift", "turn")} | {
        "shade": torch.zeros(FRAMES, 2),
        "weights": torch.full((FRAMES, 4), 0.5),
    }
    rig = SimpleNamespace(
        node_tight=TIGHT,
        node_rest=torch.tensor([[0.0, 0, 0], [0.1, 0, 0]]),
        edges=torch.tensor([[0, 1], [1, 0]]),
        edge_weight=torch.ones(2),
    )
    track = SimpleNamespace(weights=rest["weights"])
    config = replace(FitConfig(), weights=switches)
    return float(
        motion_prior(rig, SimpleNamespace(**rest | motion), track.weights, highpass(FRAMES, 6.0), config)
    )


NONE = FitWeights(arap=0, locality=0, spectral=0)


def test_locality_holds_nodes_where_they_rest():
    only = replace(NONE, locality=1.0)
    assert prior(only) == 0
    for node in (0, 1):
        shift = torch.zeros(FRAMES, 2, 3)
        shift[:, node, 0] = 2.0  # mm
        assert prior(only, shift=shift) == pytest.approx(0.02 * 4 * float(TIGHT[node]) / 2)
        shade = torch.zeros(FRAMES, 2)
        shade[:, node] = 0.1
        assert prior(only, shade=shade) == pytest.approx(0.01 * float(TIGHT[node]) / 2)


def test_each_weight_switches_its_own_term():
    moved = {"shift": torch.randn(FRAMES, 2, 3, generator=torch.Generator().manual_seed(0))}
    assert prior(NONE, **moved) == 0
    terms = [prior(replace(NONE, **{name: 1.0}), **moved) for name in ("arap", "locality", "spectral")]
    assert min(terms) > 0
    together = prior(replace(NONE, arap=1.0, locality=1.0, spectral=1.0), **moved)
    assert together == pytest.approx(sum(terms), rel=1e-5)


def test_face_actions_stay_near_the_track_and_within_bounds():
    near, far, out = (torch.full((FRAMES, 4), v) for v in (0.6, 0.9, 1.4))
    assert 0 < prior(NONE, weights=near) < prior(NONE, weights=far) < prior(NONE, weights=out)
