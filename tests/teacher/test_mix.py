"""One run with four teachers by weight: sampled people rendered, recordings, two published models (stand-ins as programs)."""

import csv
from collections import Counter

import numpy as np
import pytest

from avatar_core.io.catalog import read_catalog
from avatar_core.io.video import read_video, write_mp4
from avatar_core.metrics.clip import Clip
from avatar_core.metrics.suite import all_metrics, score_clip
from avatar_core.perception.instruments import load_critics
from avatar_core.teacher.omniavatar import OmniAvatar
from avatar_core.teacher.wan_s2v import WanSpeechToVideo
from stages import identities, speech, teacher
from stages.artifacts import Artifacts
from stages.common import Stage
from stages.evaluate_teachers import by_teacher
from stages.params import parse_params
from stages.profiles import profile_values
from tests.teacher.programs import ROOT, checkout, seeds_of

pytest.importorskip("espeakng_loader", reason="espeakng_loader is not installed (extra `espeak`)")
WEIGHTS = {"procedural": 1.0, "folder": 1.0, "omniavatar": 1.0, "wan_s2v": 1.0}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Two sampled people and their sentences, planned -> (raw parameters, data folder)."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        "stages.common.process_map", lambda fn, items, workers, on_done: [fn(item) for item in items]
    )
    raw = profile_values("smoke", ROOT)
    raw["run"] |= {"shards": [0]}
    raw["identities"] |= {"train": 1, "val": 0, "test": 1}
    raw["speech"] |= {
        "face_clips": 3,
        "waist_up_clips": 0,
        "val_clips": 0,
        "val_waist_up_clips": 0,
        "test_clips": 2,
        "max_seconds": 0.7,
    }
    raw["perception"] |= {"masks": "grabcut"}
    presets = {"omniavatar": OmniAvatar, "wan_s2v": WanSpeechToVideo}
    models = {name: vars(checkout(tmp_path / name, preset)) for name, preset in presets.items()}
    raw["teacher"] |= {
        "backends": WEIGHTS,
        "size": 96,
        "folder": {"path": str(tmp_path / "videos")},
        **models,
    }
    params, data = parse_params(raw), tmp_path / "data"
    identities.main(Stage("identities", None, params, data))
    speech.main(Stage("speech", None, params, data))
    return raw, data


def test_a_mix_says_whose_each_clip_is_and_evaluation_splits_by_it(planned, tmp_path):
    raw, data = planned
    plan = read_catalog(data / "speech" / "catalog.parquet")

    def dealt(stage):
        return {row["id"]: teacher.teacher_of(stage, row) for row in plan}

    def wanted(stage):
        tests = {dealt(stage)[row["id"]] for row in plan if row["split"] == "test"}
        return set(dealt(stage).values()) == set(WEIGHTS) and len(tests) == 2 and "procedural" in tests

    stage = next(s for s in (Stage("teacher", 0, p, data) for p in seeds_of(raw)) if wanted(s))
    rng = np.random.default_rng(0)
    for row in plan:  # what was recorded for the clips that `folder` is dealt
        if dealt(stage)[row["id"]] == "folder":
            still = rng.integers(0, 255, (96, 96, 3), np.uint8)
            frames = np.stack([np.roll(still, t, 1) for t in range(row["t_len"])])
            write_mp4(tmp_path / "videos" / f"{row['id']}.mp4", frames)
    teacher.main(stage)

    rows = read_catalog(stage.out / "catalog.parquet")
    assert {row["id"]: row["backend"] for row in rows} == dealt(stage)
    models = stage.params.teacher.sources
    for row in rows:
        card = models[row["backend"]].card.row if row["backend"] in ("omniavatar", "wan_s2v") else {}
        assert {k: row.get(k) for k in card} == card and bool(row.get("model")) == bool(card)
        assert len(read_video(stage.out / f"{row['id']}.mp4")) == row["t_len"]
    with open(stage.reports / "teachers.csv", newline="") as file:
        lines = {line["teacher"]: line for line in csv.DictReader(file)}
    assert {n: int(line["clips"]) for n, line in lines.items()} == Counter(dealt(stage).values())
    assert lines["omniavatar"]["licence"] == "Apache-2.0" and lines["folder"]["model"] == ""

    artifacts = Artifacts.of(stage)
    metrics = {name: all_metrics()[name] for name in ("IQA", "HKC")}
    tests = artifacts.teacher_clips("test")
    clips = [
        Clip(
            row["id"], artifacts.frames(row)[:6], person=row["identity"], hands_seen=row["framing"] != "face"
        )
        for row in tests
    ]
    scored = [score_clip(clip, load_critics(), metrics) for clip in clips]
    split = by_teacher(tests, {"ground_truth": scored}, metrics)
    assert {line["teacher"]: line["clips"] for line in split} == Counter(row["backend"] for row in tests)
    for line in split:
        own = [s.parts["IQA"] for s, row in zip(scored, tests) if row["backend"] == line["teacher"]]
        assert line["row"] == "ground_truth" and line["IQA"] == pytest.approx(np.mean(own))
    one = [row for row in tests if row["backend"] == "procedural"]
    assert by_teacher(one, {"ground_truth": []}, metrics) == []  # nothing to tell apart
