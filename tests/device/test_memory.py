"""Whether a stage fits on the card is said before it starts, by an estimate that agrees with what its steps are counted to keep."""

from dataclasses import replace

import pytest
import torch

from avatar_core.device import CPU, Compute
from avatar_core.errors import UserError
from benchmarks.device.cards import CARDS, count, predict
from benchmarks.device.steps import steps
from stages.common import TRAINING
from stages.memory import check_memory, needed
from stages.params import parse_params
from stages.profiles import profile_values

CARD = Compute("cuda:0")


@pytest.mark.parametrize("profile", ["smoke", "studio", "cluster"])
def test_the_estimate_is_that_of_the_plan(profile):
    params = parse_params(profile_values(profile))
    bf16, seen = params.run.precision == "bf16", set()
    for step in steps(params, Compute("meta")):
        if step.stage in TRAINING:
            planned = predict(step, count(step), CARDS[0], bf16).memory
            assert needed(step.stage, params) == pytest.approx(planned, rel=0.15), step.stage
            seen.add(step.stage)
    assert seen == set(TRAINING)


def test_too_small_a_card_is_said_in_one_line(monkeypatch):
    params = parse_params(profile_values("cluster"))
    free = {0: 80e9, 1: 80e9}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (free[card], 80e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda card: f"card {card}")
    check_memory("score", params, CARD)
    free[0] = 12e9
    with pytest.raises(
        UserError, match=r"^run.device: expected 24\.\d GB free for score .*12.0 GB on cuda:0, card 0$"
    ):
        check_memory("score", params, CARD)
    check_memory("score", params, CPU)
    shared = replace(params, run=replace(params.run, processes=2))
    free |= {0: 24e9, 1: 10e9}  # half a batch each
    with pytest.raises(UserError, match="on cuda:1, card 1"):
        check_memory("score", shared, CARD)
    with pytest.raises(UserError, match="and 16 workers"):
        check_memory("fit", params, CARD)
    for stage in ("embed", "generator", "distill"):
        check_memory(stage, shared, CARD)
