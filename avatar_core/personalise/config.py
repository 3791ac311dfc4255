"""Numbers of the way from a portrait to an avatar."""

from __future__ import annotations

from dataclasses import dataclass

from avatar_core.config import derived_by, ranged, section
from avatar_core.particles.budgets import ParticleBudgets


@dataclass(frozen=True)
class RefineConfig:
    """steps: first phase, half resolution; sharp_steps: second, full; losses' weights; reach: how far particles move."""

    steps: int = ranged(99, 1)
    sharp_steps: int = ranged(161, 1)
    reach_m: float = ranged(0.004)
    shell_reach_m: float = ranged(0.008)
    ssim: float = ranged(0.15)
    face: float = ranged(0.6)
    squared: float = ranged(50.0)  # squared error, sharp steps: what is counted in decibels
    focus: float = ranged(0.4, 0, 1)  # share of `squared` for the face at the portrait's own resolution
    mask: float = ranged(0.2)
    calm: float = ranged(
        0.4, 0, 1
    )  # share of the second phase's rates for base particles; at 1 a face seen from the side has blotches
    pull: float = ranged(0.02)  # weight of first colours and sizes, larger the less of a particle shows
    sharp_pull: float = ranged(0.1)  # the same, second phase


@dataclass(frozen=True)
class PersonaliseConfig:
    """From a portrait to an avatar: steps of the portrait's pose, refinement of the particles that `particles` counts."""

    pose_steps: int = ranged(40, 1)
    refine: RefineConfig = section(RefineConfig)
    particles: ParticleBudgets = derived_by(ParticleBudgets)
