"""Metrics with known answers, and degraded inputs that must score worse."""

from __future__ import annotations

import types

import numpy as np
import pytest

from avatar_core.metrics.bootstrap import bootstrap
from avatar_core.metrics.frechet import frechet_distance
from avatar_core.metrics.image import PSNR_CAP, psnr, ssim
from avatar_core.metrics.motion import (
    acceleration,
    audio_beats,
    beat_consistency,
    motion_beats,
    ratio,
    slow_energy,
)
from avatar_core.metrics.mouth import (
    closing_segments,
    closures,
    correlation,
    lip_aperture,
    mismatched_correlation,
    slope,
)
from avatar_core.metrics.sync import sync_scores
from avatar_core.metrics.vertices import face_dynamics_deviation, lip_vertex_error, mean_vertex_error

RNG = np.random.default_rng(3)


def smooth_image(seed: int = 0, size: int = 64) -> np.ndarray:
    import cv2

    small = np.random.default_rng(seed).random((8, 8, 3)).astype(np.float32)
    return np.clip(cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def test_psnr_known_values():
    a = np.full((8, 8, 3), 0.5)
    assert psnr(a, a + 0.1) == pytest.approx(20.0, abs=1e-6)
    assert psnr(a, a) == PSNR_CAP
    mask = np.zeros((8, 8))
    mask[:4] = 1
    b = a.copy()
    b[:4] += 0.01
    b[4:] += 0.3
    assert psnr(a, b, mask) == pytest.approx(40.0, abs=1e-6)


def test_psnr_rejects_wrong_shapes_and_empty_mask():
    with pytest.raises(ValueError, match="equal shapes"):
        psnr(np.zeros((4, 4, 3)), np.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match="mask"):
        psnr(np.zeros((4, 4, 3)), np.zeros((4, 4, 3)), np.zeros((4, 4)))


def test_ssim_one_for_equal_and_falls_with_damage():
    a = smooth_image()
    scores = [ssim(a, np.clip(a + RNG.normal(0, s, a.shape), 0, 1)) for s in (0.0, 0.02, 0.1, 0.4)]
    assert scores[0] == pytest.approx(1.0)
    assert scores == sorted(scores, reverse=True)
    # Luminance term alone: constant images have zero variance, so SSIM = (2ab+c1)/(a^2+b^2+c1).
    low, high = np.full((32, 32, 3), 0.2), np.full((32, 32, 3), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(low, high) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_shifted_gaussians_is_the_squared_shift():
    x = RNG.normal(size=(500, 6))
    shift = np.array([1.0, 0, 2.0, 0, 0, 0])
    assert frechet_distance(x, x).value == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(x, x + shift).value == pytest.approx(5.0, rel=1e-6)


def test_frechet_matches_the_matrix_square_root():
    import scipy.linalg

    a, b = RNG.normal(size=(300, 5)) @ RNG.normal(size=(5, 5)), RNG.normal(size=(400, 5)) * 2
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(ca @ cb).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root)
    assert frechet_distance(a, b).value == pytest.approx(expected, rel=1e-6)


def test_frechet_scaling_known_and_small_samples_warn():
    x = RNG.normal(size=(2000, 3))
    # Zero-mean scaling by 2: sum over dimensions of (2s - s)^2 = trace of the covariance.
    centred = x - x.mean(0)
    assert frechet_distance(centred, 2 * centred).value == pytest.approx(np.trace(np.cov(x.T)), rel=1e-6)
    assert frechet_distance(x, x).warning == ""
    few = frechet_distance(RNG.normal(size=(5, 16)), RNG.normal(size=(7, 16)))
    assert "5 samples for 16 dimensions" in few.warning
    assert few.value > 0
    with pytest.raises(ValueError, match="2 samples"):
        frechet_distance(x[:1], x)


def test_sync_finds_the_offset_and_shift_keeps_the_distance():
    e = RNG.normal(size=(80, 8))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    right = sync_scores(e, e)
    assert right.offset == 0
    assert right.distance == pytest.approx(0.0, abs=1e-6)
    assert right.confidence > 1.0
    late = sync_scores(e, np.roll(e, 4, axis=0))
    assert late.offset == 4
    other = RNG.normal(size=(80, 8))
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    wrong = sync_scores(e, other)
    assert wrong.confidence < 0.3 * right.confidence
    assert wrong.distance > right.distance + 0.5
    with pytest.raises(ValueError, match="15 windows"):
        sync_scores(e[:10], e[:10])


def test_vertex_errors():
    truth = RNG.normal(size=(10, 5, 3))
    ours = truth.copy()
    ours[:, 2, 0] += 0.01
    assert lip_vertex_error(ours, truth) == pytest.approx(0.01)
    assert mean_vertex_error(ours, truth) == pytest.approx(0.002)
    rest = np.zeros((5, 3))
    moving = np.zeros((10, 5, 3))
    moving[::2, :, 1] = 0.02
    assert face_dynamics_deviation(moving, moving, rest) == 0
    assert face_dynamics_deviation(np.zeros_like(moving), moving, rest) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="vertices"):
        lip_vertex_error(ours[:3], truth)


def test_mouth_curves():
    time = np.arange(100) / 25
    truth = 0.008 + 0.004 * np.sin(7 * time)
    assert correlation(0.5 * truth + 1, truth) == pytest.approx(1.0)
    assert slope(0.65 * truth + 1, truth) == pytest.approx(0.65)
    assert correlation(np.full(100, 0.003), truth) == 0.0
    assert correlation(-truth, truth) == pytest.approx(-1.0)
    upper = np.zeros((4, 3))
    lower = np.tile([0.0, 0.003, -0.004], (4, 1))
    assert np.allclose(lip_aperture(upper, lower, np.array([0, 0, 1.0])), 0.004)
    assert np.allclose(lip_aperture(lower, upper, np.array([0, 0, 1.0])), -0.004)  # pressed lips overlap


def test_closures_are_judged_against_the_own_rest():
    aperture = np.full(50, 0.010)
    aperture[10] = 0.0030
    segments = [(0.40, 0.44), (1.20, 1.26)]
    result = closures(aperture, rest=0.0020, segments=segments)
    assert (result.closed, result.segments) == (1, 2)
    # The same curve for somebody whose lips rest further apart than that: nothing changes but the rest.
    assert closures(aperture, rest=0.0010, segments=segments).closed == 0
    shut = closures(np.full(50, 0.001), 0.001, segments, truth=np.full(50, 0.010), truth_rest=0.001)
    assert (shut.closed, shut.segments) == (2, 2)
    assert shut.false_share == 1.0  # a mouth that never opens closes everything, and the false share says so
    assert closures(aperture, 0.002, []).segments == 0


def test_closing_segments_reads_ipa():
    P = types.SimpleNamespace
    phonemes = [
        P(start_s=0, end_s=0.1, ipa="p"),
        P(start_s=0.1, end_s=0.2, ipa="a"),
        P(start_s=0.2, end_s=0.3, ipa="mʲ"),
    ]
    assert closing_segments(phonemes) == [(0, 0.1), (0.2, 0.3)]


def test_mismatched_correlation_is_low_for_independent_clips():
    curves = [np.random.default_rng(k).normal(size=120) for k in range(6)]
    assert abs(mismatched_correlation(curves, curves)) < 0.1
    assert mismatched_correlation([curves[0]] * 3, [curves[0]] * 3) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="2 clips"):
        mismatched_correlation(curves[:1], curves[:1])


def test_jitter_raises_acceleration_but_not_slow_energy():
    time = np.arange(200) / 25
    slow = np.stack([0.1 * np.sin(2 * np.pi * 0.7 * time), 0 * time, 0 * time], -1)
    jitter = slow + np.random.default_rng(0).normal(0, 0.002, slow.shape)
    assert ratio(slow_energy(jitter), slow_energy(slow)) == pytest.approx(1.0, abs=0.1)
    assert ratio(acceleration(jitter), acceleration(slow)) > 2
    # Energy of a sine well below the cutoff: (A w)^2 / 2.
    expected = (0.1 * 2 * np.pi * 0.7) ** 2 / 2
    assert slow_energy(slow) == pytest.approx(expected, rel=0.1)
    fast = np.stack([0.01 * np.sin(2 * np.pi * 9 * time), 0 * time, 0 * time], -1)
    assert slow_energy(fast) < 0.02 * (0.01 * 2 * np.pi * 9) ** 2 / 2


def test_beats():
    assert beat_consistency(np.array([1.0, 2.0]), np.array([1.0, 2.0, 5.0])) == pytest.approx(1.0)
    assert beat_consistency(np.array([1.1]), np.array([1.0])) == pytest.approx(np.exp(-0.5))
    assert np.isnan(beat_consistency(np.zeros(0), np.array([1.0])))
    time = np.arange(100) / 25
    x = np.stack(
        [np.sin(2 * np.pi * 0.5 * time), 0 * time, 0 * time], -1
    )  # speed minima at 0.5, 1.5, 2.5, 3.5 s
    beats = motion_beats(x)
    assert np.allclose(beats, [0.5, 1.5, 2.5, 3.5], atol=0.05)
    mel = np.full((300, 80), -16.0)
    mel[100:150] = -4
    mel[220:260] = -4
    assert np.allclose(audio_beats(mel), [1.0, 2.2], atol=0.05)


def test_bootstrap_covers_and_is_repeatable():
    x = np.random.default_rng(0).normal(5, 1, 60)
    a, b = bootstrap(x, seed=1), bootstrap(x, seed=1)
    assert a == b
    assert a.low < a.value < a.high
    assert a.high - a.low == pytest.approx(2 * 1.96 * x.std() / np.sqrt(60), rel=0.15)
    assert bootstrap([2.0]).low == 2.0
    assert bootstrap([np.nan, 3.0]).samples == 1
    assert np.isnan(bootstrap([]).value)


def test_bootstrap_over_groups_is_wider():
    """Ten people with six like clips each say as much as ten clips, not sixty."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(10), 6)
    x = rng.normal(5, 1, 10)[people] + rng.normal(0, 0.1, 60)
    clips, grouped = bootstrap(x), bootstrap(x, groups=list(people))
    assert clips.value == grouped.value and grouped.samples == 60
    assert grouped.high - grouped.low > 1.8 * (clips.high - clips.low)
    one = bootstrap(x, groups=["same"] * 60)
    assert one.low == one.high == one.value
