"""The simulated scheduler keeps its books; the scale sheet says what it was made of."""

from dataclasses import replace

import numpy as np
import pytest

from avatar_core.errors import UserError
from benchmarks.scale.costs import dvc_costs, measured
from benchmarks.scale.simulate import Fleet, shard_seconds, simulate


def test_without_failures_it_is_list_scheduling():
    fleet = Fleet(workers=2, failures_an_hour=0, before=6, after=4, places=1, notice=0)
    outcome = simulate(np.array([[100.0, 50.0], [100.0, 50.0]]), fleet)
    assert outcome.makespan == 170 and outcome.useful == 300 and outcome.utilisation(fleet) == 300 / 340
    alone = replace(fleet, workers=1, before=0, after=0)
    one = simulate(np.array([[100.0, 50.0], [100.0, 50.0]]), alone)
    assert one.makespan == 300 and one.utilisation(alone) == 1 and one.failures == 0
    # a shard's second item waits for its first: more workers than shards are of no use
    assert simulate(np.array([[100.0, 50.0]]), replace(alone, workers=64)).makespan == 150
    assert simulate(np.array([[100.0, 50.0]]), replace(alone, workers=64, notice=9)).makespan == 159


def test_a_worker_prepares_one_item_while_another_computes():
    fleet = Fleet(workers=1, failures_an_hour=0, before=6, after=4, places=2)
    items = np.full((10, 1), 20.0)
    assert simulate(items, fleet).makespan == 6 + 10 * 20 + 4
    assert simulate(items, replace(fleet, places=1)).makespan == 10 * 30
    # items that are shorter than their overhead cannot hide it
    assert simulate(np.full((10, 1), 2.0), fleet).makespan > 10 * 5


def test_a_lost_worker_costs_its_items_and_its_absence():
    chains = np.full((200, 2), 1800.0)
    none, some = (simulate(chains, Fleet(16, rate), seed=1) for rate in (0, 0.05))
    assert some.failures > 3 and some.useful == none.useful == chains.sum()
    assert 0 < some.lost < some.failures * 1800 and some.makespan > none.makespan
    assert simulate(chains, Fleet(16, 0.05), seed=1) == some  # deterministic
    # all places are busy or given up: what was done and lost fits into them
    assert some.useful + some.lost <= 16 * some.makespan


def test_a_thousand_shards_of_an_hour_keep_64_workers_busy():
    frames = np.random.default_rng(0).uniform(58, 100, 90)
    chains = shard_seconds(frames, 90_000, 1000, [0.2, 0.3])
    assert chains.shape == (1000, 2) and np.allclose(chains[:, 1], chains[:, 0] * 1.5)
    fleet = Fleet()
    assert simulate(chains, fleet).utilisation(fleet) > 0.9


def test_costs_are_read_from_a_run_and_their_absence_is_said(tmp_path):
    with pytest.raises(UserError, match="catalog.parquet: expected a finished run"):
        measured(tmp_path)


def test_what_dvc_costs_is_measured():
    few, many = dvc_costs(2, 5, deps=20), dvc_costs(200, 5, deps=20)
    assert few.item > 0 and few.status < many.status  # every item is looked at, none is run
