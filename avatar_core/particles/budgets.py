"""How many particles where."""

from __future__ import annotations

from dataclasses import dataclass

from avatar_core.config import ranged


@dataclass(frozen=True)
class ParticleBudgets:
    """How many particles where; the same for every identity. The shell's have no place on the template."""

    face: int = ranged(5200, 16, 1_000_000)
    hand: int = ranged(1100, 16, 1_000_000)  # each
    eyes: int = ranged(400, 16, 1_000_000)  # both together
    mouth_interior: int = ranged(420, 16, 1_000_000)
    body: int = ranged(5600, 16, 1_000_000)
    shell: int = ranged(6000, 0, 1_000_000)  # at most, for hair, loose cloth and fine patterns
    seed: int = ranged(0)
