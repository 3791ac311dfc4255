"""The row of the score teacher's samples: when there is one, and that its mouth is no mouth of ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from avatar_core.errors import UserError
from avatar_core.metrics.clip import Value
from avatar_core.perception.crop import Window
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from stages import evaluate_diffusion
from stages.common import Stage
from stages.evaluate_diffusion import diffused, load_talker, noted, why_not
from stages.params import Params, parse_params

RAW = yaml.safe_load((Path(__file__).resolve().parents[2] / "params" / "laptop.yaml").read_text())
T = 13
NO_CRITICS: Any = None  # where the mouth is, is said


def stage(**change) -> Stage:
    return Stage("evaluate", None, parse_params({**RAW, **change}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evaluate": {**RAW["evaluate"], "video_diffusion": False}}, "evaluate.video_diffusion is false"),
        ({"score": {"backend": "ltx2"}}, "score.backend is ltx2"),
    ],
)
def test_a_row_that_is_left_out_says_why(change, words):
    assert why_not(stage()) == "" and Params().evaluate.video_diffusion
    why = why_not(stage(**change))
    assert why.startswith("not run: ") and words in why and "\n" not in why
    assert load_talker(stage(**change)) is None  # and no checkpoint is looked for


def test_each_value_says_what_is_sampled():
    values = {
        "FID": Value("FID", 2.0, None, None, 3, "embedded", "ok", "few"),
        "SSIM": Value("SSIM", 1.0, None, None, 3, "formula", "ok"),
    }
    out = noted(values, 16)
    assert out["SSIM"].value == 1 and out["SSIM"].note.startswith("a mouth window of 16 px")
    assert out["FID"].note == f"{out['SSIM'].note}; few"


@pytest.fixture
def network():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = ScoreNetwork(ScoreConfig(size=16, frames=4, channels=[16, 16], audio_channels=16, heads=2)).eval()
    torch.nn.init.normal_(net.head.weight, std=0.1)  # else it does not hear anything
    return net


def test_the_mouth_is_sampled_and_the_rest_is_ours(network, monkeypatch):
    window = Window(np.full((T, 2), 20.0), 24.0)
    monkeypatch.setattr(evaluate_diffusion, "mouth_window", lambda frames, critics: window)
    ours = np.full((T, 64, 64, 3), 90, np.uint8)
    ours[..., 0] += np.arange(T, dtype=np.uint8)[:, None, None]  # every frame is another
    rng = np.random.default_rng(0)
    mel = rng.normal(size=(4 * T + 4, 80)).astype(np.float32)  # a little more than the frames say

    def made(frames=ours, mel=mel, seed=1) -> np.ndarray:
        out = diffused(network, frames, mel, NO_CRITICS, seed)
        assert out is not None
        return out

    first, inside = made(), np.zeros(ours.shape[1:3], bool)
    assert first.shape == ours.shape
    inside[19:46, 19:46] = True
    assert np.array_equal(first[:, ~inside], ours[:, ~inside])
    assert (first[:, 28:36, 28:36] != ours[:, 28:36, 28:36]).any((1, 2, 3)).all()
    assert np.array_equal(made(), first)
    assert not np.array_equal(made(seed=2), first)
    assert not np.array_equal(made(mel=mel[::-1].copy()), first)
    other = ours.copy()
    other[1:, 28:36, 28:36] = 0  # other lips of ours, but for the reference
    assert np.array_equal(made(other)[:, 28:36, 28:36], first[:, 28:36, 28:36])
    other[0] = 0
    assert not np.array_equal(made(other)[:, 28:36, 28:36], first[:, 28:36, 28:36])


def test_without_a_mouth_there_is_nothing(network, monkeypatch):
    def blind(frames, critics):
        raise UserError("no mouth")

    monkeypatch.setattr(evaluate_diffusion, "mouth_window", blind)
    ours, mel = np.zeros((T, 64, 64, 3), np.uint8), np.zeros((4 * T, 80), np.float32)
    assert diffused(network, ours, mel, NO_CRITICS, 1) is None
