"""How generated body and hand motion is put right after training: as large, as quick and as coupled as the fitted motion.

A network that regresses motion from sound gives several times the energy of the fits, and it loses the correlation of the head's
latents: a nod turns the head about the neck, so shift and turn are one movement. Generated without that correlation the head
floats, although every latent by itself has the right energy.

So the head, one rigid thing that close clips show best, gets one low-pass, which sets its tempo, and one linear map of its latents,
which sets the covariance of their slow velocities: then its particles have about the energy that they have in the fits.
Of unheard voices heads move more than of those it has learnt, so both are found for such; still, the energy of an utterance's head
is capped at a high quantile of the fits'. Few clips show arms, and arms have many latents: there each latent gets the low-pass that
gives it the fits' energy. Lips guessed from sound open and shut too little, of an unheard voice least: the face gets one gain, by
which they do as in the fits of clips that the network has not learnt from. Body and hands are calibrated on training clips;
everything once, after training.

Shapes: T frames, D latents, K latents of a region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from avatar_core.embed.batches import LatentClip
from avatar_core.embed.codec import MotionCodec
from avatar_core.generator.config import SampleConfig
from avatar_core.generator.model import UNBOUNDED, Generator
from avatar_core.generator.sampler import encode_audio, sample
from avatar_core.geometry.filters import low_pass, slow_velocity
from avatar_core.io.rows import Rows

SIGMAS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)  # frames, standard deviation of the Gaussian filter
TEMPO_HZ = 4.0  # above it fits are mostly noise
MOST_CLIPS = 24
LEAST_FRAMES = 30
CAP_QUANTILE = 0.75  # quantile of the fits' energies that bounds an utterance's
MOST_GAIN = 1.5  # of the face
RIDGE = 1e-3  # of the mean variance: keeps the map from blowing up what hardly moves


@torch.no_grad()
def calibrate_motion(
    generator: Generator,
    clips: Sequence[LatentClip],
    unheard: Sequence[LatentClip],
    codec: MotionCodec,
    config: SampleConfig,
    seed: int,
) -> None:
    """Set the generator's `sigma_frames`, `covariance_map`, `head_scale`, `head_energy_cap` and `face_gain` so that motion
    sampled for the clips' sound moves as their fits do. The codec is on the CPU, where all but the sampling is done.

    clips: those it was trained on; unheard: others, for head and face (the same where there are none). Only clips that show a
    region count for it; what none shows gets the least sigma and no map. Lips are not drawn shut meanwhile: the gain is one of
    openings. Locked by test_the_closure_does_not_change_the_gain.
    """
    generator.eval()
    closure, generator.closure = generator.closure, None
    generator.sigma_frames.fill_(0.0)
    generator.covariance_map.copy_(torch.eye(codec.dims, device="cpu"))
    generator.head_energy_cap.fill_(UNBOUNDED)
    generator.face_gain.fill_(1.0)
    chosen, fits, generated = _samples(generator, clips, config, seed)
    judged = _samples(generator, unheard, config, seed) if unheard else (chosen, fits, generated)
    generator.face_gain.fill_(_face_gain(*judged, codec))
    generator.sigma_frames.fill_(SIGMAS[0])
    for region in ("head", "body", "hand"):
        part, rows = codec.slices[region], [n for n, clip in enumerate(chosen) if clip.visible[region]]
        if not rows:
            continue
        fitted, sampled = [fits[n][:, part] for n in rows], [generated[n][:, part] for n in rows]
        if region == "head":
            # Where the face is large a fit knows the head best: from afar it shakes twice as much.
            close = [n for n in rows if chosen[n].visible["face"]] or rows
            fitted, sampled = [fits[n][:, part] for n in close], [generated[n][:, part] for n in close]
            # In metres, so that what moves particles most is matched best.
            scale = codec.region(region).std[: codec.region(region).dims]
            heads = [x[:, part] for clip, x in zip(judged[0], judged[2], strict=True) if clip.visible["face"]]
            sigma, turn = _rigid([x * scale for x in fitted], [x * scale for x in heads or sampled])
            generator.sigma_frames[part] = sigma
            generator.covariance_map[part, part] = scale[:, None] * _tensor(turn) / scale
            generator.head_scale[part] = scale
            energies = [float((slow_velocity((x * scale).numpy()) ** 2).sum(1).mean()) for x in fitted]
            generator.head_energy_cap.fill_(float(np.quantile(energies, CAP_QUANTILE)))
        else:
            generator.sigma_frames[part] = _tensor(_sigmas(fitted, sampled))
    generator.closure = closure


def _samples(
    generator: Generator, clips: Sequence[LatentClip], config: SampleConfig, seed: int
) -> tuple[list[LatentClip], list[Tensor], list[Tensor]]:
    """Clips that are long enough, at most so many; motion (T,D) of their fits, and as sampled for their sound."""
    long = [c for c in clips if len(c.x) >= LEAST_FRAMES]
    chosen = [
        long[k] for k in np.unique(np.linspace(0, len(long) - 1, min(MOST_CLIPS, len(long))).astype(int))
    ]
    sampled = []
    for clip in chosen:
        features = encode_audio(generator, _tensor(clip.audio).to(generator.motion.device))
        sampled.append(sample(generator, features, seed, replace(config, guidance=1.0)).cpu())
    return chosen, [_tensor(clip.x) for clip in chosen], sampled


def _face_gain(
    clips: list[LatentClip], fitted: list[Tensor], sampled: list[Tensor], codec: MotionCodec
) -> float:
    """How much wider lips open and shut in the fits than in the samples: the median clip's of those with a face, 1 or more."""
    ratios = [
        float(codec.aperture(a).std() / codec.aperture(b).std().clamp_min(1e-6))
        for clip, a, b in zip(clips, fitted, sampled, strict=True)
        if clip.visible["face"]
    ]
    return float(np.clip(np.median(ratios), 1.0, MOST_GAIN)) if ratios else 1.0


def coupling_map(generated: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """The symmetric M (K,K), nearest to no change, for which rows x of covariance `generated` give x @ M of
    covariance `fitted`.

    The optimal transport between two Gaussians [Dowson and Landau 1982], M = R^-1 (R fitted R)^1/2 R^-1 with
    R = generated^1/2.
    Where `generated` is nearly singular the coupling is only approached, but the sum of the variances is always
    that of `fitted`.
    Locked by test_coupling_map_gives_the_wanted_covariance_and_is_no_change_where_none_is_needed.
    """
    ridge = RIDGE * (np.trace(fitted) + 1e-12) / len(fitted) * np.eye(len(fitted))
    root, inverse = _power(generated + ridge, 0.5), _power(generated + ridge, -0.5)
    turn = inverse @ _power(root @ (fitted + ridge) @ root, 0.5) @ inverse
    return turn * np.sqrt(np.trace(fitted) / (np.trace(turn @ generated @ turn) + 1e-18))


def _rigid(fitted: list[Tensor], sampled: list[Tensor]) -> tuple[float, np.ndarray]:
    """The one sigma for all latents (T,K) of the clips, and the map that follows it."""
    target = np.median([_tempo(x) for x in fitted])
    tempo = [np.median([_tempo(low_pass(x, sigma)) for x in sampled]) for sigma in SIGMAS]
    sigma = SIGMAS[int(np.abs(np.log(np.divide(tempo, target + 1e-12) + 1e-12)).argmin())]
    return sigma, coupling_map(_covariance([low_pass(x, sigma) for x in sampled]), _covariance(fitted))


def _sigmas(fitted: list[Tensor], sampled: list[Tensor]) -> np.ndarray:
    """(K,): for each latent the sigma with which its energy, the median clip's, is nearest to the fits'."""
    target = np.median([_energies(x) for x in fitted], axis=0)
    energy = np.stack(
        [np.median([_energies(low_pass(x, sigma)) for x in sampled], axis=0) for sigma in SIGMAS]
    )
    return np.take(SIGMAS, np.abs(np.log((energy + 1e-12) / (target + 1e-12))).argmin(0))


def _energies(x: Tensor) -> np.ndarray:
    return (slow_velocity(x.numpy()) ** 2).mean(0)


def _tempo(x: Tensor) -> float:
    """Mean change per frame of the velocity of x (T,K) in units of its size; like acceleration, it tells bursts from drift."""
    velocity = slow_velocity(x.numpy(), cutoff=TEMPO_HZ)
    size = np.sqrt((velocity**2).sum(1).mean())
    return float(np.linalg.norm(np.diff(velocity, axis=0), axis=1).mean() / (size + 1e-12))


def _covariance(clips: list[Tensor]) -> np.ndarray:
    """(K,K) of slow velocities. The median clip sets the size: a fit that lost somebody must not set the pace."""
    velocities = [slow_velocity(x.numpy()) for x in clips]
    each = np.stack([v.T @ v / len(v) for v in velocities])
    energy = np.trace(each, axis1=1, axis2=2)
    return np.median(energy) * (each / (energy[:, None, None] + 1e-12)).mean(0)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-18) ** exponent) @ vectors.T


def _tensor(values: np.ndarray | Rows) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))
