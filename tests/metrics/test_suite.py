"""The ten metrics over small clips, the unavailable ones, and the reference backends."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file
from avatar_core.metrics.clip import Clip
from avatar_core.metrics.clipwise import IQA
from avatar_core.metrics.networks import NetworkFile
from avatar_core.metrics.reference import read_score
from avatar_core.metrics.suite import METRICS, all_metrics, score_clip, summarise
from avatar_core.perception.instruments import load_critics
from avatar_core.procedural.people import Person, framing_camera, sample_identities
from avatar_core.procedural.performance import perform
from avatar_core.speech.espeak import synthesize

torch.set_num_threads(1)
ALL = all_metrics()


@pytest.fixture(scope="module")
def clip() -> Clip:
    from avatar_core.audio.features import log_mel_numpy

    person = Person.build(sample_identities(1, 9, "suite-test")[0])
    speech = synthesize("Bob met a happy boy by the big boat.", "en", "otto")
    count = min(speech.num_frames, 48)
    acted = perform(speech, count, 5)
    camera = framing_camera(person.vertices(), "face", 192)
    shots = [
        person.render(acted.face_weights[t], acted.rotvecs[t], acted.translation[t], camera)[0]
        for t in range(count)
    ]
    frames = np.stack(shots)
    return Clip(
        "one", frames, log_mel_numpy(speech.audio)[: 4 * count], frames.copy(), frames[0], hands_seen=False
    )


def test_truth_scores_best_and_damage_costs(clip: Clip):
    critics = load_critics()
    rng = np.random.default_rng(0)
    bad = np.stack([cv2.GaussianBlur(f, (0, 0), 2.5) for f in clip.frames]) + rng.normal(
        0, 12, clip.frames.shape
    )
    bad = np.clip(bad, 0, 255).astype(np.uint8)
    truth = summarise([score_clip(clip, critics, ALL)], ALL, draws=50)
    ours = summarise(
        [
            score_clip(
                Clip("one", bad, clip.log_mel, clip.frames, clip.portrait, hands_seen=False), critics, ALL
            )
        ],
        ALL,
        draws=50,
    )
    assert list(truth) == list(METRICS)
    assert truth["PSNR"].value == 100.0
    assert truth["SSIM"].value == pytest.approx(1.0)
    assert truth["FID"].value == pytest.approx(0.0, abs=1e-3)
    assert "samples" in truth["FID"].note  # 16 frames are few for 128 dimensions, and the value says so
    for metric in ("IQA", "ASE", "CSIM", "SSIM", "PSNR", "FID", "FVD"):
        a, b = truth[metric].value, ours[metric].value
        assert a is not None and b is not None
        assert (a < b) if metric in ("FID", "FVD") else (a > b), metric
    assert truth["CSIM"].backend == "embedded"
    assert truth["PSNR"].backend == "formula"


def test_a_mask_looks_at_the_person_and_a_rim(clip: Clip):
    """What is wrong far from the person costs nothing, what spills over the outline does; intervals are over people."""
    chosen = {name: ALL[name] for name in ("SSIM", "PSNR")}
    mask = np.zeros(clip.frames.shape[:3], np.uint8)
    mask[:, 64:128, 64:128] = 255
    far, spilt = clip.frames.copy(), clip.frames.copy()
    far[:, :, :32] = 255 - far[:, :, :32]
    spilt[:, 64:128, 129:131] = 255 - spilt[:, 64:128, 129:131]
    critics = load_critics()

    def value(frames: np.ndarray, name: str, masks: np.ndarray | None = mask) -> float:
        seen = dataclasses.replace(clip, frames=frames, truth=clip.frames, mask=masks, person="Ann")
        scores = score_clip(seen, critics, chosen)
        assert scores.person == "Ann"
        found = summarise([scores], chosen, draws=20)[name].value
        assert found is not None
        return found

    assert value(far, "PSNR") == 100.0 and value(far, "SSIM") == pytest.approx(1.0)
    assert value(far, "PSNR", None) < 30
    assert value(spilt, "PSNR") < 40 and value(spilt, "SSIM") < 0.99


def test_half_of_the_true_clips_against_the_other_is_the_floor(clip: Clip):
    """Without truth FID compares the clips with each other: far below what damage costs, and said to be the floor."""
    chosen, critics = {"FID": ALL["FID"]}, load_critics()
    halves = [dataclasses.replace(clip, truth=None, frames=clip.frames[k : k + 24]) for k in (0, 24)]
    floor = summarise([score_clip(c, critics, chosen) for c in halves], chosen, draws=20)["FID"]
    bad = np.stack([cv2.GaussianBlur(f, (0, 0), 2.5) for f in clip.frames])
    damaged = dataclasses.replace(clip, frames=bad, truth=clip.frames)
    worse = summarise([score_clip(damaged, critics, chosen)], chosen, draws=20)["FID"]
    assert floor.value is not None and worse.value is not None
    assert 0 < floor.value < worse.value and "floor" in floor.note and "floor" not in worse.note


def test_what_cannot_run_is_unavailable_never_zero(clip: Clip):
    silent = Clip("two", clip.frames[:20], None, None, None, hands_seen=False)
    values = summarise([score_clip(silent, load_critics(), ALL)], ALL, draws=20)
    for metric in ("SyncC", "SyncD", "HKC", "CSIM", "SSIM", "PSNR", "FID", "FVD"):
        assert values[metric].status == "unavailable"
        assert values[metric].value is None
        assert values[metric].note
    assert values["IQA"].status == "ok"
    assert "audio" in values["SyncC"].note
    assert all(v.status == "unavailable" for v in summarise([], ALL, draws=5).values())


def test_reference_scores_by_path_and_hash(tmp_path: Path, clip: Clip):
    path = tmp_path / "iqa.json"
    path.write_text(json.dumps({"ours": {"one": 3.5, "two": None}}))
    good = NetworkFile(path, sha256_file(path), IQA.wanted)
    assert read_score(good, "ours", "one") == 3.5
    with pytest.raises(UserError, match="row ours, clip two"):
        read_score(good, "ours", "two")
    with pytest.raises(UserError, match="row other"):
        read_score(good, "other", "one")
    with pytest.raises(UserError, match="SHA-256"):
        IQA(str(path), "0" * 64).check()
    with pytest.raises(UserError, match=r"Q-Align.*place it there"):
        IQA(str(tmp_path / "none.json"), "0" * 64).check()
    metrics = {"IQA": IQA(str(path), good.sha256)}
    short = Clip("one", clip.frames[:4], None, None, None)
    values = summarise([score_clip(short, load_critics(), metrics)], metrics, draws=5)
    assert (values["IQA"].value, values["IQA"].backend) == (3.5, "reference")
