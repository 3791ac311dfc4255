"""The plan for GPUs: what is counted is what is done, and more of it takes longer."""

from dataclasses import replace

import pytest
import torch

from benchmarks.device.__main__ import plan, show
from benchmarks.device.cards import CARDS, CONTEXT_BYTES, Count, count, predict
from benchmarks.device.step import Step


def linear(rows=32):
    layer = torch.nn.Linear(64, 128, bias=False, device="meta")
    x = torch.zeros(rows, 64, device="meta")
    return Step("x", "step", 10, lambda: layer(x).square().sum().backward(), 64 * 128)


def test_a_layer_is_counted_forward_and_backward():
    counted = count(linear())
    assert counted.flops == 2 * (2 * 32 * 64 * 128)  # the product, and the gradient of its weights
    assert counted.kept == 4 * (32 * 64 + 32 * 128)  # its input, and what is squared
    assert counted.bytes > 3 * 4 * 64 * 128 and counted.kernels >= 5


def test_more_work_takes_longer_and_the_slower_of_device_and_cpu_counts():
    card, small = CARDS[0], count(linear())
    heavy = replace(small, flops=1e15)
    assert (
        predict(linear(), heavy, card, bf16=False).step_s
        > 10 * predict(linear(), heavy, card, bf16=True).step_s
    )
    found = predict(linear(), small, card, bf16=True)
    assert found.step_s == found.host_s > found.device_s  # so small that starting its kernels takes longest
    assert predict(linear(), Count(0, 0, 0, 4e9), card, bf16=False).memory == pytest.approx(
        CONTEXT_BYTES + 5e9, rel=1e-3
    )
    drawn = replace(linear(), frames=8, splats=20_000, pixels=512**2)
    assert predict(drawn, small, card, False).device_s > 2e-3 > predict(linear(), small, card, False).device_s


def test_a_plan_has_every_stage_on_every_card():
    rows = plan("smoke")
    assert {r["stage"] for r in rows} == {
        "score",
        "fit",
        "embed",
        "generator",
        "baseline",
        "distill",
        "evaluate",
    }
    assert {r["card"] for r in rows} == {card.name for card in CARDS}
    assert all(r["flops"] > 0 and r["kernels"] > 100 and r["total_s"] > 0 and r["fits"] for r in rows)
    assert show("smoke", rows).count("\n| ") == len(rows) + 1
