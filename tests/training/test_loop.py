"""The shared training loop: schedule, averaged weights, steps that are not finite."""

import pytest
import torch

from avatar_core.errors import UserError
from avatar_core.progress import silent
from avatar_core.training.loop import Loop, mean_losses, rate, run_loop


def run(losses, loop, model, progress=silent):
    return run_loop(
        loop, model, torch.optim.SGD(model.parameters(), lr=1.0), torch.Generator(), losses, fingerprint="",
        checkpoint_dir=None, progress=progress,
    )  # fmt: skip


def line() -> torch.nn.Linear:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    return model


def test_rate_rises_then_falls():
    rates = [rate(step, 100, warmup=10, floor=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1, abs=0.05)
    assert rates[100] == pytest.approx(0.1) and rates[50] == pytest.approx(0.55)


def test_the_average_lags_behind_the_weights_and_is_what_stays():
    model, seen = line(), []

    def losses():
        seen.append(model.weight.item())
        return {"loss": (model.weight - 1).square().sum()}

    history = run(losses, Loop("x", 30, 0.05, ema=0.9, checkpoint_every=99, warmup=1), model)
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]
    assert 0 < model.weight.item() < seen[-1] < 1 and not model.training


def test_steps_that_are_not_finite_are_left_out_until_there_are_too_many():
    model, calls = line(), []

    def losses(broken=lambda n: n == 3):
        calls.append(1)
        assert torch.isfinite(model.weight).all()
        return {"loss": (model.weight - 1).square().sum() * (float("nan") if broken(len(calls)) else 1)}

    loop = Loop("kettle", 20, 0.05, ema=0.9, checkpoint_every=99)
    history = run(losses, loop, model)
    assert len(history) == 20 and mean_losses(history)["loss"] < 1
    with pytest.raises(UserError, match="kettle: loss not finite for 10 steps"):
        run(lambda: losses(lambda n: True), loop, line())


def test_progress_is_told_the_means_of_the_latest_losses():
    values, told = iter([2.0, 4.0, 5.0]), []
    model, loop = line(), Loop("x", 3, 0.0, ema=0.9, checkpoint_every=99, report_every=2)
    run(lambda: {"loss": model.weight.sum() + next(values)}, loop, model, lambda *news: told.append(news))
    assert told == [(2, 3, "loss 3"), (3, 3, "loss 4.5")]


def test_a_fused_optimizer_leaves_out_what_is_not_finite_and_losses_are_read_later():
    """As on a CUDA device, where the CPU must not wait for a step's numbers."""

    def train(broken):
        model, weights, told = line(), [], []

        def losses():
            weights.append(model.weight.item())
            scale = float("nan") if broken(len(weights)) else 1.0
            return {"loss": (model.weight - 1).square().sum() * scale}

        loop = Loop("kettle", 25, 0.05, ema=0.9, checkpoint_every=99, report_every=5)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
        history = run_loop(
            loop, model, optimizer, torch.Generator(), losses, fingerprint="", checkpoint_dir=None,
            progress=lambda *news: told.append((news[0], news[2])),
        )  # fmt: skip
        return weights, history, told

    weights, history, told = train(lambda n: n == 4)
    assert weights[4] == weights[3] != weights[2] and weights[5] != weights[4]
    assert len(history) == 25 and [n for n, row in enumerate(history) if row["loss"] != row["loss"]] == [3]
    assert told[0] == (5, "") and told[1][1].startswith("loss ")  # read every tenth step
    with pytest.raises(UserError, match="kettle: loss not finite for 10 steps"):
        train(lambda n: n > 8)
