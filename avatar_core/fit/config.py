"""Numbers of the deformable fit: weights of its losses, steps, learning rates, and what a framing shows.

Source: AudioAvatar section "Video Diffusion Distillation" for the losses; the values are measured on procedural clips.
"""

from __future__ import annotations

from dataclasses import dataclass

from avatar_core.config import ranged, section


@dataclass(frozen=True)
class BodyRates:
    """Learning rates for framings without a large face: torso and arms move further, and there are no lips to protect."""

    rate_rotation: float = ranged(0.008)
    rate_shift_mm: float = ranged(1.0)
    rate_turn: float = ranged(0.02)


@dataclass(frozen=True)
class FitWeights:
    """Weights of the losses; pictures are in [0,1], distances in px (points) and mm (motion)."""

    l1: float = ranged(1.0)
    ssim: float = ranged(0.2)
    face: float = ranged(0.6)  # added to the pixels of the face
    hand: float = ranged(0.15)  # added to the pixels of the hands
    tracks: float = ranged(0.02)
    keypoints: float = ranged(0.004)
    arap: float = ranged(1.0)
    locality: float = ranged(0.05)
    spectral: float = ranged(0.3)
    mask: float = ranged(0.1)


@dataclass(frozen=True)
class SkeletonTrackConfig:
    """iterations of Adam; learning rates of rotations (rad), translation (m), face actions; weights of the terms;
    spacing of the spline knots in frames."""

    iterations: int = ranged(120, 1)
    rate_rotation: float = ranged(0.05)
    rate_translation: float = ranged(0.006)
    rate_action: float = ranged(0.05)
    lips: float = ranged(2.0)
    lids: float = ranged(1.5)
    opening: float = ranged(1.5)
    action_prior: float = ranged(0.1)
    action_symmetry: float = ranged(0.3)
    action_bounds: float = ranged(20.0)
    action_smooth: float = ranged(0.02)
    face_bias: float = ranged(0.15)  # cost of a millimetre of constant landmark misfit, squared
    pose_smooth: float = ranged(5.0)
    trunk_speed: float = ranged(3000.0)  # cost of a radian a frame, squared, of the slow bones
    slow_knots: float = ranged(10.0, 1)
    quick_knots: float = ranged(3.0, 1)


@dataclass(frozen=True)
class FitConfig:
    """iterations and batch (frames in one rendering) of the refinement; learning rates; the losses' weights; the track."""

    iterations: int = ranged(12, 1)
    batch: int = ranged(16, 1)
    rate_action: float = ranged(0.04)
    rate_rotation: float = ranged(0.004)
    rate_translation: float = ranged(0.0008)
    rate_shift_mm: float = ranged(0.5)
    rate_turn: float = ranged(0.012)
    rate_shade: float = ranged(0.01)
    body_rates: BodyRates = section(BodyRates)  # instead, without a large face
    cutoff_hz: float = ranged(6.0, 0.1, 12.5)
    action_prior: float = ranged(0.0005)  # holds face actions near the keypoints' estimate
    weights: FitWeights = section(FitWeights)
    track: SkeletonTrackConfig = section(SkeletonTrackConfig)
