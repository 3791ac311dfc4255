"""Numbers of the deformable fit: weights of its losses, steps, learning rates, and what a framing shows.

Source: AudioAvatar section "Video Diffusion Distillation" for the losses; the values are measured on procedural clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from avatar_core.fit.track import TrackConfig
from avatar_core.particles.framing import FIELD_OF_VIEW

# Where the body is the subject: torso and arms have further to go, and no lips are learnt that node motion could explain away.
BODY_RATES = {"rate_rotation": 0.008, "rate_shift_mm": 1.0, "rate_turn": 0.02}


@dataclass(frozen=True)
class FitWeights:
    """Weights of the losses; pictures are in [0,1], distances in px (points) and mm (motion)."""

    l1: float = 1.0
    ssim: float = 0.2
    face: float = 0.6  # added to the pixels of the face
    hand: float = 0.15  # added to the pixels of the hands
    tracks: float = 0.02
    keypoints: float = 0.004
    arap: float = 1.0
    locality: float = 0.05
    spectral: float = 0.3
    mask: float = 0.1


@dataclass(frozen=True)
class FitConfig:
    """iterations and batch (frames in one rendering) of the refinement; learning rates; the losses' weights; the track."""

    iterations: int = 12
    batch: int = 16
    rate_action: float = 0.04
    rate_rotation: float = 0.004
    rate_translation: float = 0.0008
    rate_shift_mm: float = 0.5
    rate_turn: float = 0.012
    rate_shade: float = 0.01
    body_rates: Mapping[str, float] = field(
        default_factory=lambda: dict(BODY_RATES)
    )  # instead, without a large face
    cutoff_hz: float = 6.0
    action_prior: float = 0.0005  # holds face actions near the keypoints' estimate
    weights: FitWeights = field(default_factory=FitWeights)
    track: TrackConfig = field(default_factory=TrackConfig)
    field_of_view: Mapping[str, float] = field(default_factory=lambda: dict(FIELD_OF_VIEW))
