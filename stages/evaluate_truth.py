"""The part of evaluation that reads the true surface: lips, vertices and motion of driven avatars, and the fits' errors.

Legend: T frames, N particles, Q true vertices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from avatar_core.clock import SAMPLE_RATE
from avatar_core.generator.sampler import generate
from avatar_core.metrics import motion as motion_metrics
from avatar_core.metrics import vertices as vertex_metrics
from avatar_core.metrics.mouth import (
    Closures,
    closing_segments,
    closures,
    correlation,
    mismatched_correlation,
    slope,
)
from avatar_core.metrics.truth import (
    Correspondence,
    correspond,
    lip_line,
    particle_aperture,
    true_aperture,
    truth_report,
)
from avatar_core.particles.canonical import Canonical, load_canonical
from avatar_core.particles.deformation import Deformation, LocalFrames
from avatar_core.particles.framing import VISIBLE
from avatar_core.particles.layout import ParticleLayout, make_layout
from avatar_core.speak.student import load_student
from avatar_core.speech.types import phonemes_from_json
from avatar_core.template import Template, load_template
from stages.artifacts import Artifacts, Row
from stages.common import Stage

NOISE_RMS = 1e-3  # -60 dB of full scale
SILENCE_SECONDS = 3
SHUT = 0.05  # share of a clip in which the teacher's mouth counts as shut


@dataclass(frozen=True)
class DrivenClip:
    """Particles (T,N,3) of an avatar driven by a clip's sound; truth: vertex ids (Q,) and positions (T,Q,3), or None."""

    row: Row
    particles: np.ndarray
    truth: tuple[np.ndarray, np.ndarray] | None
    canonical: Canonical


def drive_report(stage: Stage, clips: Sequence[DrivenClip]) -> dict[str, float | None]:
    """Lips, vertex errors and motion of the driven clips against the truth, means over clips."""
    data, template = Artifacts.of(stage), load_template()
    layout = make_layout(stage.params.particles)
    known = [c for c in clips if c.truth is not None]
    if not known:
        return {"lip_correlation": None}
    rows: list[dict[str, float]] = []
    ours, truths, found, lines, teacher = [], [], [], [], []
    for clip in known:
        assert clip.truth is not None
        match = correspond(*clip.truth, template, layout, clip.particles)
        mine, true = particle_aperture(clip.particles, layout), true_aperture(*clip.truth, template)
        if clip.row["framing"] == "face" and true is not None:
            ours.append(mine)
            truths.append(true)
            name = clip.row["id"]
            speech = phonemes_from_json(data.phonemes_file(name), data.audio(name))
            rest = float(particle_aperture(clip.canonical.means[None, : clip.canonical.n_base], layout)[0])
            segments = closing_segments(speech.phonemes)
            # Where the teacher's mouth counts as open is told from its most shut twentieth of the clip.
            found.append(closures(mine, rest, segments, true, float(np.quantile(true, SHUT))))
            line, true_line = _widest(clip, match, template, layout)
            lines.append(closures(line, 0.0, segments, true_line))
            teacher.append(closures(true_line, 0.0, segments))
        rows.append(_vertex_rows(clip, match, data))
    out: dict[str, float | None] = {
        "lip_correlation": float(np.mean([correlation(a, b) for a, b in zip(ours, truths, strict=True)])),
        "lip_correlation_worst": float(
            np.min([correlation(a, b) for a, b in zip(ours, truths, strict=True)])
        ),
        "lip_slope": float(np.mean([slope(a, b) for a, b in zip(ours, truths, strict=True)])),
        "lip_correlation_other_sentence": mismatched_correlation(ours, truths) if len(ours) > 1 else None,
        "closure_recall": _recall(found),
        "closure_segments": sum(f.segments for f in found),
        "false_closures": float(np.mean([f.false_share for f in found])),
        "lip_line_recall": _recall(lines),
        "lip_line_recall_teacher": _recall(teacher),
        "lip_line_false_closures": float(np.mean([f.false_share for f in lines])),
    }
    # Whether the clips move as much as the teacher's as a distribution: a mean hides that some move twice as much, others half.
    for part in ("head", "hand"):
        energies = np.array(
            [
                (r[f"{part}_slow_energy"], r[f"{part}_slow_energy_teacher"])
                for r in rows
                if f"{part}_slow_energy" in r
            ]
        )
        if len(energies) > 1:
            test: Any = ks_2samp(energies[:, 0], energies[:, 1])
            out[f"{part}_slow_energy_ks_p"] = float(test.pvalue)
    for key in sorted({k for row in rows for k in row}):
        values = [row[key] for row in rows if key in row and np.isfinite(row[key])]
        # Ratios of clips multiply; errors add.
        average = (
            np.exp(np.mean(np.log(np.maximum(values, 1e-9)))) if key.endswith("_ratio") else np.mean(values)
        )
        out[key] = float(average) if values else None
    return out


def _recall(found: Sequence[Closures]) -> float | None:
    segments = sum(f.segments for f in found)
    return sum(f.closed for f in found) / segments if segments else None


def _widest(
    clip: DrivenClip, match: Correspondence, template: Template, layout: ParticleLayout
) -> tuple[np.ndarray, np.ndarray]:
    """(T,) metres, ours and the teacher's: the widest gap along the lip line over its rest. Ours rests as the avatar does, the
    teacher as each pair does in its most shut twentieth of the clip."""
    assert clip.truth is not None
    ids, positions = clip.truth
    still = correspond(
        ids, positions[:1], template, layout, clip.canonical.means[None, : clip.canonical.n_base]
    )
    (rest, _), (ours, true) = lip_line(still), lip_line(match)
    return (ours - rest).max(1), (true - np.quantile(true, SHUT, axis=0)).max(1)


def _vertex_rows(clip: DrivenClip, mine: Correspondence, data: Artifacts) -> dict[str, float]:
    row: dict[str, float] = {}
    close = clip.row["framing"] == "face"
    if close:
        row["LVE_mm"] = 1e3 * vertex_metrics.lip_vertex_error(
            mine.aligned[:, mine.lips], mine.still[:, mine.lips]
        )
        row["MVE_mm"] = 1e3 * vertex_metrics.mean_vertex_error(
            mine.aligned[:, mine.face], mine.still[:, mine.face]
        )
        upper = mine.face & ~mine.lips
        rests = np.stack([mine.aligned[:, upper].mean(0), mine.still[:, upper].mean(0)])
        row["FDD_mm"] = 1e3 * vertex_metrics.face_dynamics_deviation(
            mine.aligned[:, upper], mine.still[:, upper], rests
        )
    parts = {"head": mine.skull} if close else {"head": mine.skull, "hand": mine.hands}
    for name, chosen in parts.items():
        a, b = mine.points[:, chosen], mine.truth[:, chosen]
        energy, true_energy = motion_metrics.slow_energy(a), motion_metrics.slow_energy(b)
        row |= {f"{name}_slow_energy": energy, f"{name}_slow_energy_teacher": true_energy}
        row[f"{name}_slow_energy_ratio"] = motion_metrics.ratio(energy, true_energy)
        row[f"{name}_acceleration_ratio"] = motion_metrics.ratio(
            motion_metrics.acceleration(a), motion_metrics.acceleration(b)
        )
    if not close:
        beats = motion_metrics.audio_beats(data.log_mel(clip.row["id"])[:])
        row["beat_consistency"] = motion_metrics.beat_consistency(
            motion_metrics.motion_beats(mine.points[:, mine.hands]), beats
        )
        row["beat_consistency_teacher"] = motion_metrics.beat_consistency(
            motion_metrics.motion_beats(mine.truth[:, mine.hands]), beats
        )
    return row


def silence_report(stage: Stage) -> dict[str, float]:
    """How far the mouth stands open, against rest, when nothing or only faint noise is heard: mean and most, in mm."""
    student = load_student(Artifacts.of(stage).student_file).to(stage.compute.device)
    samples = SILENCE_SECONDS * SAMPLE_RATE
    sounds = {
        "silence": np.zeros(samples, np.float32),
        "faint_noise": (NOISE_RMS * stage.rng("noise").standard_normal(samples)).astype(np.float32),
    }
    out = {}
    for name, sound in sounds.items():
        opening = 1e3 * student.codec.aperture(generate(student.generator, sound, stage.seed, student.sample))
        out[f"{name}_opening_mm"] = float(opening.mean())
        out[f"{name}_opening_most_mm"] = float(opening.max())
    return out


def fit_report(stage: Stage, rows: list[Row]) -> dict[str, float | None]:
    """Errors of the fitted training clips against their truth, means over clips."""
    data, template = Artifacts.of(stage), load_template()
    layout = make_layout(stage.params.particles)
    reports: list[dict[str, float]] = []
    for row in rows:
        truth = data.truth(row)
        if truth is None:
            continue
        canonical, deformation = (
            load_canonical(data.canonical_file(row)),
            Deformation.of(data.trajectory(row)),
        )
        splats = LocalFrames(canonical, layout).compose(deformation)
        particles = splats.means[:, : canonical.n_base].numpy()
        reports.append(truth_report(*truth, template, layout, particles, VISIBLE[row["framing"]]))
    names = ("lip_correlation", "lip_slope", "lips_mm", "face_mm", "hands_mm", "body_mm")
    values = {n: [r[n] for r in reports if n in r and np.isfinite(r[n])] for n in names}
    return {n: float(np.mean(v)) if v else None for n, v in values.items()}
