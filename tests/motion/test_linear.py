from dataclasses import replace

import numpy as np
import torch

from avatar_core.audio.mel import CLEAN
from avatar_core.embed.batches import Batches
from avatar_core.generator.config import LinearConfig, TrainConfig
from avatar_core.generator.linear import SILENCE, LinearReading, fit_linear
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import encode_audio, generate
from tests.motion.small import MODEL

RADIUS, FACE = 2, slice(8, 14)


def test_the_linear_reading_is_the_ridge_solution(data, codec):
    batches = Batches(data, codec, TrainConfig(batch=4, window=20), CLEAN)
    config = LinearConfig(radius=RADIUS, ridge=0.5, batches=3)
    reading = LinearReading(80, RADIUS, 6)
    fit_linear(reading, batches, FACE, config, torch.Generator().manual_seed(5))
    rng = torch.Generator().manual_seed(5)
    drawn = [batches.draw(rng) for _ in range(3)]
    p = torch.cat([reading.windows(mel) for mel, *_ in drawn]).flatten(0, 1).double().numpy()
    y = torch.cat([x[..., FACE] for _, x, *_ in drawn]).flatten(0, 1).double().numpy()
    counts = torch.where(torch.arange(len(batches.has_lips)) == 0, SILENCE, batches.has_lips.float())
    w = torch.cat([w * counts[v][:, None] for *_, w, v in drawn]).flatten().double().numpy()
    root = np.sqrt(w)[:, None]
    p, y = p - w @ p / w.sum(), y - w @ y / w.sum()
    ridge = np.sqrt(0.5 * w.sum()) * np.eye(p.shape[1])
    expected, *_ = np.linalg.lstsq(
        np.concatenate([root * p, ridge]), np.concatenate([root * y, np.zeros((len(ridge), 6))]), rcond=None
    )
    assert np.abs(reading.weight.numpy() - expected).max() < 1e-4 * np.abs(expected).max() + 1e-6


def test_a_window_is_a_frame_with_its_neighbours():
    reading = LinearReading(1, 1, 1)
    heard = torch.arange(12.0).reshape(1, 12, 1)  # frames 1.5, 5.5, 9.5
    assert reading.windows(heard).tolist() == [[[0, 1.5, 5.5], [1.5, 5.5, 9.5], [5.5, 9.5, 0]]]


def test_the_share_moves_the_face_and_nothing_else(talk):
    torch.manual_seed(0)
    model = Generator(MODEL).eval()
    torch.nn.init.normal_(model.linear.weight, std=0.1)
    audio = talk(3)[0]
    read = encode_audio(model, CLEAN.hear(torch.from_numpy(audio)))[:, -6:]
    alone, mixed, only = (generate(_with_share(model, share), audio, seed=1) for share in (0.0, 0.5, 1.0))
    face = model.face
    assert torch.allclose(only[:, face], read, atol=1e-5)
    assert torch.allclose(mixed[:, face], 0.5 * (alone + only)[:, face], atol=1e-5)
    assert torch.equal(mixed[:, : face.start], alone[:, : face.start])


def _with_share(model, share):
    model.config = replace(model.config, linear=replace(model.config.linear, share=share))
    return model
