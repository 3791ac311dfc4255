"""A small artificial person: a few hundred particles that talk, nod and wave, with sound to match."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar_core.audio.features import log_mel_numpy
from avatar_core.embed.batches import LatentClip
from avatar_core.embed.codec import FittedClip
from avatar_core.embed.codec_fit import fit_codec
from avatar_core.geometry.rotations import quat_from_rotvec, quat_mul, quat_to_matrix
from avatar_core.particles.background import Background
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.deformation import Deformation, LocalFrames
from avatar_core.particles.layout import ParticleLayout
from tests.motion.small import CODEC


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def person():
    """(canonical, layout): 200 body (40 skull, 15 a wrist), 150 face, 2 x 40 hand particles and 30 shells."""
    rng = np.random.default_rng(3)
    body = rng.uniform([-0.3, -0.1, 0.0], [0.3, 0.1, 1.4], (200, 3))
    body[:40] = rng.normal(size=(40, 3)) * 0.07 + [0, 0.02, 1.6]
    body[40:55] = rng.normal(size=(15, 3)) * 0.02 + [0.4, 0, 0.9]
    body[55:70] = rng.normal(size=(15, 3)) * 0.02 + [-0.4, 0, 0.9]
    face = np.stack([rng.uniform(-0.06, 0.06, 150), np.full(150, -0.08), rng.uniform(1.5, 1.7, 150)], -1)
    face[:10] = np.stack([np.linspace(-0.01, 0.01, 10), np.full(10, -0.09), np.full(10, 1.551)], -1)
    face[10:20] = face[:10] - [0, 0, 0.001]
    hands = [rng.normal(size=(40, 3)) * 0.03 + [s * 0.42, 0, 0.82] for s in (1, -1)]
    means = np.concatenate([body, face, *hands]).astype(np.float32)
    frame = np.repeat([0, 1, 2, 3], [200, 150, 40, 40]).astype(np.uint8)
    anchors = rng.integers(0, 40, 30)
    quats = rng.normal(size=(460, 4)).astype(np.float32)
    canonical = Canonical(
        means=np.concatenate([means, means[anchors] + rng.normal(size=(30, 3)) * 0.02]).astype(np.float32),
        quats=quats / np.linalg.norm(quats, axis=1, keepdims=True),
        log_scales=rng.normal(size=(460, 3)).astype(np.float32),
        logit_opacities=rng.normal(size=460).astype(np.float32),
        colors=rng.uniform(size=(460, 3)).astype(np.float32),
        anchor=np.concatenate([np.arange(430), anchors]).astype(np.int32),
        knn=np.argsort(((means[:, None] - means[None]) ** 2).sum(-1), 1)[:, 1:5].astype(np.int32),
        region=np.zeros(460, np.uint8),
        shape=np.zeros(0, np.float32),
        n_base=430,
        stature=1.7,
        pixel=0.001,
        background=Background.plain(np.full(3, 0.5)),
        stance=np.zeros((0, 3), np.float32),
        freedom=np.ones(2, np.float32),
    )
    layout = ParticleLayout(
        triangles=np.zeros((430, 3), np.int32),
        barycentric=np.zeros((430, 3), np.float32),
        spacing=np.zeros(430, np.float32),
        frame=frame,
        region=np.repeat([0, 1, 2, 3], [200, 150, 40, 40]).astype(np.uint8),
        carriers={"head": np.arange(40), "wrist_left": np.arange(40, 55), "wrist_right": np.arange(55, 70)},
        lips_upper=np.arange(200, 210),
        lips_lower=np.arange(210, 220),
        template_positions=means,
    )
    return canonical, layout


@pytest.fixture(scope="session")
def talk(person):
    """talk(seed, frames) -> (audio (640 T,), Deformation): loudness opens the lower face, slow waves move the rest."""
    canonical, layout = person
    local = LocalFrames(canonical, layout)
    rest = torch.from_numpy(canonical.means[:430])

    def make(seed: int, frames: int = 75) -> tuple[np.ndarray, Deformation]:
        rng = np.random.default_rng([seed, 5])
        t = np.arange(frames) / 25
        loud = np.zeros(frames)
        for start in np.cumsum(rng.uniform(0.2, 0.8, frames)):
            if start < frames / 25 - 0.3:
                loud += rng.uniform(0.5, 1.0) * np.exp(-(((t - start - 0.15) / 0.07) ** 2))
        envelope = np.interp(np.arange(frames * 640) / 16000, t + 0.02, loud)
        audio = (envelope * rng.standard_normal(frames * 640) * 0.1).astype(np.float32)
        nod, wave = (np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in (0.5, 0.7))
        means, quats = _pose(rest, canonical, torch.tensor(loud), torch.tensor(nod), torch.tensor(wave))
        return audio, local.decompose(means, quats)

    return make


@pytest.fixture(scope="session")
def clips(talk):
    """Twelve clips: sound and FittedClip; every other one shows only the face and head."""
    out = []
    for seed in range(12):
        audio, deformation = talk(seed)
        near = seed % 2 == 0
        visible = {"body": not near, "head": True, "face": True, "hand": not near}
        out.append((audio, FittedClip(deformation, visible)))
    return out


def _pose(rest, canonical, loud, nod, wave):
    frames = len(loud)
    head = torch.cat([torch.arange(40), torch.arange(200, 350)])
    means = rest.repeat(frames, 1, 1)
    lower = torch.cat([torch.arange(210, 220), torch.arange(220, 350)[rest[220:350, 2] < 1.55]])
    means[:, lower, 2] -= 0.008 * loud[:, None].float()
    turn = torch.zeros(frames, len(rest), 3)
    _swing(means, turn, head, torch.tensor([0, 0.02, 1.5]), 0.1 * nod, 0)
    for first, wrist, sign in ((350, 40, 1), (390, 55, -1)):
        part = torch.cat([torch.arange(wrist, wrist + 15), torch.arange(first, first + 40)])
        _swing(means, turn, part, torch.tensor([0.2 * sign, 0, 1.2]), 0.4 * sign * wave, 1)
    quats = quat_mul(quat_from_rotvec(turn), torch.from_numpy(canonical.quats[:430]))
    return means, quats


def _swing(means, turn, part, pivot, angle, axis):
    rotvec = torch.zeros(len(angle), 3)
    rotvec[:, axis] = angle.float()
    matrix = quat_to_matrix(quat_from_rotvec(rotvec))
    means[:, part] = (means[:, part] - pivot) @ matrix.transpose(1, 2) + pivot
    turn[:, part] = rotvec[:, None]


@pytest.fixture(scope="module")
def codec(clips, person):
    """The codec fitted to the clips."""
    return fit_codec([c for _, c in clips], person[1], CODEC)


@pytest.fixture(scope="module")
def data(clips, codec):
    """The clips as the generator trains on them."""
    with torch.no_grad():
        return [
            LatentClip(log_mel_numpy(a), codec.encode(c.deformation, visible=c.visible).numpy(), c.visible)
            for a, c in clips
        ]
