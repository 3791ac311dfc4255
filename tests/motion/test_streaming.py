"""Clips on disk train as those in memory do, and eight times as many need no more memory."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.embed.batches import Batches, LatentClip, some_clips
from avatar_core.embed.codec import FittedClip
from avatar_core.embed.codec_fit import _collect
from avatar_core.embed.config import BatchConfig
from avatar_core.generator.config import LinearConfig
from avatar_core.generator.linear import LinearReading, fit_linear
from avatar_core.io import rows as module
from avatar_core.io.rows import Rows
from avatar_core.io.store import Store, write_arrays
from avatar_core.score import train
from avatar_core.score.clips import ScoreClip
from avatar_core.score.config import ScoreConfig
from avatar_core.score.train import train_score

FEW, MANY, FRAMES = 10, 80, 160
BATCH = BatchConfig(batch=6, window=24)


@pytest.fixture(autouse=True)
def small_cache(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(module, "CACHE_BYTES", 1 << 19)
    monkeypatch.setattr(module, "_chunks", module._Chunks())


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory, codec):
    """MANY latent clips of 5 frames to FRAMES, in memory and on disk."""
    rng, folder, held = np.random.default_rng(1), tmp_path_factory.mktemp("clips"), []
    for k in range(MANY):
        t = FRAMES if k else 5
        held.append(
            LatentClip(
                rng.normal(size=(4 * t, 80)).astype(np.float32),
                rng.normal(size=(t, codec.dims)).astype(np.float32),
                {"body": k % 2 == 0, "head": True, "face": k % 3 > 0, "hand": False},
                rng.random(t).astype(np.float32),
                rng.normal(size=(k % 3, 4 * t, 80)).astype(np.float16),
            )
        )
        write_arrays(
            folder / f"{k}.zarr", {n: getattr(held[k], n) for n in ("audio", "x", "confidence", "takes")}
        )
    stores = [Store(folder / f"{k}.zarr") for k in range(MANY)]
    lazy = [
        replace(clip, **{n: Rows(store, n) for n in ("audio", "x", "confidence", "takes")})
        for clip, store in zip(held, stores, strict=True)
    ]
    return held, lazy


def peak(work) -> int:
    """Bytes that numpy and Python held at once beyond those before."""
    work()  # what is made once
    tracemalloc.start()
    work()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_windows_are_the_same_from_disk_and_memory_does_not_grow(on_disk, codec):
    held, lazy = on_disk
    drawn = [Batches(clips, codec, BATCH) for clips in (held, lazy)]
    for seed in range(20):
        a, b = (batches.draw(torch.Generator().manual_seed(seed)) for batches in drawn)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    def draw(count):
        batches, rng = Batches(lazy[:count], codec, BATCH), torch.Generator().manual_seed(0)
        for _ in range(30):
            batches.draw(rng)

    assert peak(lambda: draw(MANY)) < 1.2 * peak(lambda: draw(FEW))


def test_the_linear_reading_is_the_same_from_disk_and_memory_does_not_grow(on_disk, codec, monkeypatch):
    held, lazy = on_disk
    monkeypatch.setattr(
        "avatar_core.generator.linear.some_clips", lambda clips: some_clips(clips, 8 * FRAMES)
    )

    def fit(clips):
        reading = LinearReading(80, 1, 6)
        fit_linear(
            reading, clips, torch.zeros(2, 96, 80), codec.neutral(), codec.slices["face"], LinearConfig()
        )
        return reading.state_dict()

    a, b = fit(held[:FEW]), fit(lazy[:FEW])
    assert all(torch.equal(a[k], b[k]) for k in a) and a["weight"].abs().max() > 0
    assert peak(lambda: fit(lazy)) < 1.2 * peak(lambda: fit(lazy[:FEW]))


def test_few_clips_all_count_and_many_are_thinned_out(on_disk):
    _, lazy = on_disk
    assert some_clips(lazy[:9]) == lazy[:9] and some_clips(lazy[1:2], 10) == lazy[1:2]
    some = some_clips(lazy, 20 * FRAMES)
    assert 15 < len(some) <= 21 and sum(len(c.x) for c in some) <= 20 * FRAMES and lazy.index(some[-1]) > 70


def test_the_codec_keeps_only_the_frames_that_it_uses(clips, codec, person):
    """As if all clips were loaded and thinned out afterwards; a clip with no frame to give is not read at all."""
    fitted = [c for _, c in clips] * 8
    config, read = replace(codec.config, max_frames=40), []

    class Loaded(list[FittedClip]):
        def __getitem__(self, k):  # pyright: ignore
            read.append(k)
            return super().__getitem__(k)

    index = {r: codec.region(r).index.numpy() for r in ("body", "face", "hand")} | {"head": np.arange(40)}
    shown = [(len(c.deformation), c.visible) for c in fitted]
    samples = _collect(codec, Loaded(fitted), shown, index, config)
    assert len(read) == len(set(read)) < len(fitted)
    quota = np.unique(np.linspace(0, 74, 8).round().astype(int))
    hands = [(k, f) for k, c in enumerate(fitted) if c.visible["hand"] for f in quota]
    keep = torch.linspace(0, len(hands) - 1, 40).round().long().tolist()
    assert samples["hand"]["clip"].tolist() == [hands[n][0] for n in keep]
    wanted = torch.stack(
        [fitted[k].deformation.mean_offset[f][index["hand"]] for k, f in (hands[n] for n in keep)]
    )
    assert torch.allclose(samples["hand"]["mean_offset"] * codec.scale("hand", 1.7), wanted, atol=1e-6)
    held = {r: {n for n in values if n not in ("clip", "weight")} for r, values in samples.items()}
    assert held["head"] == {"mean_offset"}  # all that the head's part of the codec learns from
    assert held["hand"] == {"mean_offset", "rotation"} and fitted[0].deformation.color is None
    assert all(len(value) <= config.max_frames for values in samples.values() for value in values.values())


def test_the_score_trains_from_disk_as_from_memory_and_memory_does_not_grow(tmp_path, monkeypatch):
    rng, held, lazy = np.random.default_rng(0), [], []
    for k in range(MANY):
        clip = ScoreClip(
            rng.integers(0, 255, (120, 16, 16, 3)).astype(np.uint8),
            rng.normal(size=(480, 80)).astype(np.float32),
        )
        write_arrays(tmp_path / f"{k}.zarr", vars(clip))
        store = Store(tmp_path / f"{k}.zarr")
        held.append(clip)
        lazy.append(ScoreClip(Rows(store, "frames"), Rows(store, "log_mel")))
    config = ScoreConfig(size=16, frames=4, channels=[8, 8], audio_channels=8, heads=2, batch=2, steps=3)
    a, b = (train_score(clips[:FEW], config)[0].state_dict() for clips in (held, lazy))
    assert all(torch.equal(a[k], b[k]) for k in a)
    monkeypatch.setattr(train, "STATISTICS_CLIPS", 5)
    few, many = (peak(lambda n=n: train_score(lazy[:n], replace(config, steps=1))) for n in (FEW, MANY))
    assert many < 1.2 * few
