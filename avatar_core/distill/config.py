"""Numbers of the distillation and the weights of its losses."""

from __future__ import annotations

from dataclasses import dataclass

from avatar_core.config import derived, list_of, ranged, section
from avatar_core.generator.config import MotionLossConfig


@dataclass(frozen=True)
class DistillWeights:
    simple: float = ranged(1.0)
    vsd: float = ranged(0.02)
    trajectory: float = ranged(10.0)  # tracks are in units of the picture's side
    l1: float = ranged(1.0)
    arap: float = ranged(0.1)


@dataclass(frozen=True)
class DistillConfig:
    steps: int = ranged(150, 1)
    size: int = ranged(128, 32, 2048)  # px, clips seen whole
    clips: int = ranged(1, 1)  # rendered a step
    learning_rate: float = ranged(1e-4, 1e-08, 1)
    weights: DistillWeights = section(DistillWeights)
    simple: MotionLossConfig = section(MotionLossConfig, batch=8)  # batches and terms of L_simple
    vsd_tau: list[float] = list_of(0.3, 0.9)  # least and most diffusion time, of 1
    vsd_guidance: float = ranged(1.5, 0, 20)
    variational: bool = False  # replaces eps in VSD by a score network that learns the rendered clips
    variational_rate: float = ranged(1e-4, 1e-08, 1)
    ema: float = ranged(0.98, 0, 1)
    clip_norm: float = ranged(1.0)
    checkpoint_every: int = ranged(50, 1)
    seed: int = derived(0)
