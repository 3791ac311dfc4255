from dataclasses import replace

import numpy as np
import torch

from avatar_core.audio.mel import CLEAN
from avatar_core.generator.config import LinearConfig
from avatar_core.generator.linear import LinearReading, fit_linear
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import encode_audio, generate
from tests.motion.small import MODEL

RADIUS, FACE = 2, slice(8, 14)


def test_the_linear_reading_is_the_ridge_solution(data, codec):
    """Clips that hide the face do not count; silent windows together count half as much as the clips."""
    hidden = replace(data[0], x=data[0].x + 9, visible={**data[0].visible, "face": False})
    unsure = replace(data[0], confidence=np.linspace(0, 1, len(data[0].x)))
    clips = [*data, hidden, unsure]
    silence = torch.randn(3, 80, 80, generator=torch.Generator().manual_seed(5))
    reading = LinearReading(80, RADIUS, 6)
    config = LinearConfig(radius=RADIUS, ridge=0.5, silence=0.5)
    fit_linear(reading, clips, silence, codec.neutral(), FACE, config)
    sounds = [torch.from_numpy(c.audio).float() for c in (*data, unsure)]
    p = torch.cat([reading.windows(s[None])[0] for s in (*sounds, *silence)]).double().numpy()
    y = np.concatenate([*(c.x[:, FACE] for c in (*data, unsure)), np.tile(codec.neutral()[FACE], (60, 1))])
    spoken = np.concatenate([*(np.ones(len(c.x)) for c in data), unsure.confidence])
    w = np.concatenate([spoken, np.full(60, 0.5 * spoken.sum() / 60)])
    root = np.sqrt(w)[:, None]
    p, y = p - w @ p / w.sum(), y - w @ y / w.sum()
    ridge = np.sqrt(0.5 * w.sum()) * np.eye(p.shape[1])
    expected, *_ = np.linalg.lstsq(
        np.concatenate([root * p, ridge]), np.concatenate([root * y, np.zeros((len(ridge), 6))]), rcond=None
    )
    assert np.abs(reading.weight.numpy() - expected).max() < 1e-4 * np.abs(expected).max() + 1e-6


def test_a_face_that_no_clip_shows_is_not_read(data, codec):
    reading = LinearReading(80, RADIUS, 6)
    hidden = [replace(clip, visible={**clip.visible, "face": False}) for clip in data]
    fit_linear(reading, hidden, torch.zeros(1, 80, 80), codec.neutral(), FACE, LinearConfig(radius=RADIUS))
    assert not reading.weight.any() and not reading.bias.any()


def test_a_window_is_a_frame_with_its_neighbours():
    reading = LinearReading(1, 1, 1)
    heard = torch.arange(12.0).reshape(1, 12, 1)  # frames 1.5, 5.5, 9.5
    assert reading.windows(heard).tolist() == [[[0, 1.5, 5.5], [1.5, 5.5, 9.5], [5.5, 9.5, 0]]]


def test_the_share_moves_the_face_and_nothing_else(talk):
    torch.manual_seed(0)
    model = Generator(MODEL).eval()
    torch.nn.init.normal_(model.linear.weight, std=0.1)
    audio = talk(3)[0]
    read = encode_audio(model, CLEAN.hear(torch.from_numpy(audio)))[:, -7:-1]
    alone, mixed, only = (generate(_with_share(model, share), audio, seed=1) for share in (0.0, 0.5, 1.0))
    face = model.face
    assert torch.allclose(only[:, face], read, atol=1e-5)
    assert torch.allclose(mixed[:, face], 0.5 * (alone + only)[:, face], atol=1e-5)
    assert torch.equal(mixed[:, : face.start], alone[:, : face.start])


def _with_share(model, share):
    model.config = replace(model.config, linear=replace(model.config.linear, share=share))
    return model
