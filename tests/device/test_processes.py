"""Trainings in two processes (gloo, on the CPU) give what one process gives, and go on from each other's checkpoints."""

import os
import signal
import threading
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from avatar_core.audio.mel import CLEAN
from avatar_core.device import CPU
from avatar_core.distill.config import DistillConfig
from avatar_core.distill.train import train_student
from avatar_core.embed.config import ContrastiveConfig
from avatar_core.embed.contrastive import train_embedding
from avatar_core.errors import Interrupted, UserError
from avatar_core.generator.config import MotionLossConfig, TrainConfig
from avatar_core.generator.model import Generator
from avatar_core.generator.train import train_generator
from avatar_core.progress import silent
from avatar_core.score.config import ScoreConfig
from avatar_core.score.network import ScoreNetwork
from avatar_core.score.train import train_score
from stages.processes import train_in_processes
from tests.motion.small import MODEL

STEPS = 20
SCORE = ScoreConfig(size=32, frames=4, channels=[8, 8], audio_channels=8, heads=2, batch=2, steps=STEPS)
EMBED = ContrastiveConfig(dims=16, steps=STEPS, window=24, batch=4)
GENERATOR = TrainConfig(steps=STEPS, batch=4, window=24)
DISTILL = DistillConfig(steps=STEPS, clips=2, simple=MotionLossConfig(batch=4, window=24))


@pytest.fixture
def trainings(data, codec, score_clips, distill_clips, large):
    """Each training with its arguments but for the last, the folder of checkpoints."""
    torch.manual_seed(3)
    student = (Generator(MODEL), codec, ScoreNetwork(SCORE).eval())
    return {
        "score": (train_score, (score_clips, SCORE)),
        "embed": (train_embedding, (data, codec, EMBED, CLEAN)),
        "generator": (train_generator, (data, codec, GENERATOR, MODEL, CLEAN)),
        "distill": (train_student, (distill_clips, {"A": large[0]}, large[1], *student, DISTILL, CLEAN)),
    }


def weights(trained):
    """(weights of all models by name, history)"""
    *models, history = trained
    return {f"{k} {n}": v for k, m in enumerate(models) for n, v in m.state_dict().items()}, history


def assert_near(a, b):
    assert a[0].keys() == b[0].keys() and len(a[1]) == len(b[1])
    for name, value in a[0].items():
        torch.testing.assert_close(
            b[0][name], value, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )
    for one, two in zip(a[1], b[1], strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-4)


def train_each(trainings, progress, compute):
    """All of them, one after the other: starting processes takes longer than these trainings do."""
    return {name: fn(*arguments, None, progress, compute) for name, (fn, arguments) in trainings.items()}


def test_two_processes_train_as_one(trainings):
    two = train_in_processes(2, "kettle", STEPS, train_each, (trainings,), {}, CPU)
    one = train_each(deepcopy(trainings), silent, CPU)
    for name in trainings:
        assert_near(weights(one[name]), weights(two[name]))


def end_at(step, folder):
    """A SIGTERM for this process, which waits for the others, once they have left the checkpoint of a step."""

    def watch():
        while not (folder / f"train-{step:08d}.safetensors").exists():
            done.wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    done = threading.Event()
    threading.Thread(target=watch, daemon=True).start()


def test_a_sigterm_leaves_a_checkpoint_from_which_any_number_goes_on(trainings, tmp_path):
    fn, (clips, codec, config, *more) = trainings["generator"]
    arguments = (clips, codec, replace(config, steps=60, checkpoint_every=4), *more)
    before, last = signal.getsignal(signal.SIGTERM), 0

    def train(count):
        if count == 1:
            return fn(*arguments, tmp_path, silent, CPU)
        return train_in_processes(count, "kettle", 60, fn, (*arguments, tmp_path), {}, CPU)

    for count, step in ((2, 4), (1, 24)):
        end_at(step, tmp_path)
        with pytest.raises(Interrupted, match="ended"):
            train(count)
        assert signal.getsignal(signal.SIGTERM) == before
        left = sorted(tmp_path.glob("train-*.safetensors"))
        last, done = int(left[-1].stem[6:]), last
        assert done < last < 60 and {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".json"}
    resumed, straight = train(2), fn(*arguments, None, silent, CPU)
    assert len(resumed[1]) == 60
    assert_near(weights(straight), weights(resumed))


def test_what_the_user_gave_wrong_is_one_line_from_any_process(trainings):
    _, (clips, config) = trainings["score"]
    given = (clips, replace(config, size=16), None)
    with pytest.raises(UserError, match="^score: expected crops of 16 px, found"):
        train_in_processes(2, "kettle", STEPS, train_score, given, {}, CPU)
