from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from avatar_core.audio.features import log_mel
from avatar_core.generator.closure import LipClosure, fit_closure
from avatar_core.generator.config import ClosureConfig
from avatar_core.generator.model import Generator
from avatar_core.generator.sampler import encode_audio, generate
from tests.motion.small import MODEL

FACE = slice(8, 14)
CONFIG = ClosureConfig(radius=1, decay=0.02)


@pytest.fixture(scope="module")
def pressing(data, codec):
    """The clips of somebody who presses the lips by a millimetre where the others' rest."""
    row, _ = codec.aperture_row()
    opening = np.zeros(codec.dims, np.float32)
    opening[FACE] = (row / row.square().sum()).numpy()
    return [replace(clip, x=clip.x - 0.001 * opening) for clip in data]


@pytest.fixture(scope="module")
def closure(pressing, codec):
    closure = LipClosure(80, CONFIG, 6)
    fit_closure(closure, pressing, codec)
    return closure


def opened(codec, x):
    """Aperture over the person's rest of latents (T,D)."""
    return codec.aperture(torch.as_tensor(x)) - codec.aperture(codec.neutral()[None])


def test_the_closure_is_the_regularised_logistic_solution(pressing, codec):
    """Its loss, written once more and over all frames at once, has no slope there, in the weights and in the bias."""
    hidden = replace(pressing[0], x=pressing[0].x + 9, visible={**pressing[0].visible, "face": False})
    unsure = replace(pressing[1], confidence=np.linspace(0, 1, len(pressing[1].x)))
    closure, used = LipClosure(80, CONFIG, 6), [*pressing, unsure]
    fit_closure(closure, [*used, hidden], codec)
    weight, bias = (v.double().requires_grad_() for v in (closure.reading.weight, closure.reading.bias))
    loss, total = torch.zeros(()).double(), 0.0
    for clip in used:
        p = closure.reading.windows(torch.from_numpy(clip.audio).float()[None])[0].double()
        a = opened(codec, clip.x).numpy()
        near = np.array([(a[max(0, t - 3) : t + 4] > 0.0015).any() for t in range(len(a))])
        w = torch.from_numpy(near * (np.ones(len(a)) if clip.confidence is None else clip.confidence))
        y = torch.from_numpy((a < -0.0003).astype(float))
        odds = (p @ weight + bias)[:, 0]
        loss = loss + (w * nn.functional.binary_cross_entropy_with_logits(odds, y, reduction="none")).sum()
        total += float(w.sum())
    (loss / total + 0.02 * weight.square().sum()).backward()
    assert weight.grad is not None and bias.grad is not None and weight.detach().abs().max() > 0.01
    assert weight.grad.abs().max() < 1e-5 and bias.grad.abs().max() < 1e-5


def test_lips_are_drawn_shut_and_never_open(closure, pressing, codec):
    rng = torch.Generator().manual_seed(0)
    x = torch.from_numpy(pressing[0].x) + 0.3 * torch.randn(75, codec.dims, generator=rng)
    share = torch.rand(75, generator=rng)
    before, after = opened(codec, x), x.clone()
    after[:, FACE] = closure.shut(x[:, FACE], share)
    wanted = torch.where(before > -0.001, before - share * (before + 0.001), before)
    assert (before > 0.003).sum() > 10 and (before < -0.001).any()
    assert torch.allclose(opened(codec, after), wanted, atol=2e-5)
    assert torch.equal(closure.shut(x[:, FACE], torch.zeros(75)), x[:, FACE])


def test_it_hears_where_lips_of_an_unheard_sound_are_pressed(closure, talk, codec):
    audio, deformation = talk(77)
    with torch.no_grad():
        share = closure(log_mel(torch.from_numpy(audio))[None])[0]
    a = opened(codec, codec.encode(deformation))
    assert share[a > 0.004].mean() < 0.05 and share[a < 0.0001].mean() > 0.9


@pytest.mark.parametrize("which", ["no face", "lips that never press", "lips that never open"])
def test_what_was_not_learnt_draws_nothing(which, data, codec):
    clips = {
        "no face": [replace(c, visible={**c.visible, "face": False}) for c in data],
        "lips that never press": data,
        "lips that never open": [replace(c, x=np.tile(codec.neutral(), (75, 1))) for c in data],
    }[which]
    closure = LipClosure(80, CONFIG, 6)
    fit_closure(closure, clips, codec)
    x = torch.from_numpy(data[0].x[:, FACE])
    assert torch.equal(closure.shut(x, torch.ones(75)), x)


def test_only_the_face_is_drawn(closure, talk):
    torch.manual_seed(0)
    model = Generator(replace(MODEL, closure=CONFIG)).eval()
    audio = talk(3)[0]
    assert model.closure is not None
    free = generate(model, audio, seed=1)
    model.closure.load_state_dict(closure.state_dict())
    shut = generate(model, audio, seed=1)
    assert torch.equal(free[:, model.motion], shut[:, model.motion])
    share = encode_audio(model, log_mel(torch.from_numpy(audio)))[:, -1]
    assert torch.allclose(shut[:, FACE], closure.shut(free[:, FACE], share), atol=1e-6) and share.max() > 0.5


def test_a_student_from_before_has_none(talk):
    model = Generator(replace(MODEL, closure=replace(CONFIG, enabled=False)))
    tensors, config = model.tensors()
    assert "closure" not in config and not any("closure" in name for name in tensors)
    again = Generator.from_tensors(tensors, config)
    assert again.closure is None
    assert torch.equal(generate(again, talk(3)[0]), generate(model, talk(3)[0]))
    with_one = Generator(replace(MODEL, closure=CONFIG))
    assert asdict(Generator.from_tensors(*with_one.tensors()).config)["closure"] == asdict(CONFIG)
