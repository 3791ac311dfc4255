"""Batches drawn ahead are those that would be drawn in between, and so is what a training makes of them."""

import threading
from dataclasses import replace

import pytest
import torch

from avatar_core.device import CPU
from avatar_core.embed.config import ContrastiveConfig
from avatar_core.embed.contrastive import train_embedding
from avatar_core.errors import UserError
from avatar_core.generator.config import TrainConfig
from avatar_core.generator.train import train_generator
from avatar_core.score.config import ScoreConfig
from avatar_core.score.train import train_score
from avatar_core.training.ahead import Ahead
from tests.motion.small import MODEL


def draw(rng):
    return torch.rand(3, generator=rng), threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize("count", [1, 4])
def test_they_are_the_same_and_leave_the_same_state(count):
    here, ahead = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    with Ahead(draw, here, 0) as now, Ahead(draw, ahead, count) as before:
        for _ in range(6):
            (a, here_drawn), (b, there_drawn) = now(), before()
            assert torch.equal(a, b) and (here_drawn, there_drawn) == (True, False)
            assert torch.equal(here.get_state(), ahead.get_state())  # what a checkpoint holds


def test_an_error_of_the_draw_comes_with_its_batch():
    def broken(rng):
        if torch.rand(1, generator=rng) < 2:
            raise UserError("chunk 7: expected it to be intact")

    with pytest.raises(UserError, match="chunk 7"), Ahead(broken, torch.Generator(), 2) as drawn:
        drawn()


@pytest.mark.parametrize("name", ["score", "embed", "generator"])
def test_a_training_gives_the_same_bytes_and_goes_on_from_the_same_checkpoint(
    name,
    data,
    codec,
    score_clips,
    tmp_path,
):
    score = ScoreConfig(size=32, frames=4, channels=[8, 8], audio_channels=8, heads=2, batch=2, steps=5)
    embed = ContrastiveConfig(dims=16, steps=5, window=24, batch=4)
    generator = TrainConfig(steps=5, batch=4, window=24)
    train, arguments, config = {
        "score": (train_score, (score_clips,), score),
        "embed": (train_embedding, (data, codec), embed),
        "generator": (train_generator, (data, codec), generator),
    }[name]
    more = (MODEL,) if name == "generator" else ()

    def trained(ahead, folder, **changes):
        settings = replace(config, checkpoint_every=2, **changes)
        model, history = train(
            *arguments, settings, *more, checkpoint_dir=tmp_path / folder, compute=replace(CPU, ahead=ahead)
        )
        return model.state_dict(), history

    (now, losses), (before, other) = trained(0, "now"), trained(3, "ahead")
    assert losses == other and all(torch.equal(v, before[k]) for k, v in now.items())
    for path in (tmp_path / "ahead").glob("train-00000005.*"):
        path.unlink()
    again, _ = trained(2, "ahead")  # from step 4
    assert all(torch.equal(v, again[k]) for k, v in now.items())
