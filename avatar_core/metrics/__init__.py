"""The paper's ten metrics and the errors that need ground truth. Each module names its source."""

from avatar_core.metrics.bootstrap import Interval, bootstrap
from avatar_core.metrics.frechet import Frechet, frechet_distance
from avatar_core.metrics.image import psnr, ssim
from avatar_core.metrics.motion import (
    acceleration,
    audio_beats,
    beat_consistency,
    motion_beats,
    ratio,
    slow_energy,
)
from avatar_core.metrics.mouth import (
    Closures,
    closing_segments,
    closures,
    correlation,
    lip_aperture,
    mismatched_correlation,
    slope,
)
from avatar_core.metrics.sync import SyncScores, sync_scores
from avatar_core.metrics.vertices import face_dynamics_deviation, lip_vertex_error, mean_vertex_error

__all__ = [
    "Closures",
    "Frechet",
    "Interval",
    "SyncScores",
    "acceleration",
    "audio_beats",
    "beat_consistency",
    "bootstrap",
    "closing_segments",
    "closures",
    "correlation",
    "face_dynamics_deviation",
    "frechet_distance",
    "lip_aperture",
    "lip_vertex_error",
    "mean_vertex_error",
    "mismatched_correlation",
    "motion_beats",
    "psnr",
    "ratio",
    "slope",
    "slow_energy",
    "ssim",
    "sync_scores",
]
