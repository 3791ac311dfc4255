"""Published networks behind the metrics: small ones of the same inputs and outputs, through the real loading and preprocessing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file
from avatar_core.metrics.clip import Clip, Look
from avatar_core.metrics.clipwise import ASE, CSIM, HKC, IQA, PSNR, SyncC, SyncD, five_points
from avatar_core.metrics.distributions import FID, FVD
from avatar_core.metrics.networks import NetworkFile, load_network
from avatar_core.metrics.suite import score_clip, summarise
from avatar_core.metrics.syncnet import offset_curve
from avatar_core.perception.instruments import load_critics
from avatar_core.perception.simcc import HKC_VERSION
from avatar_core.procedural.people import Person, framing_camera, sample_identities
from avatar_core.procedural.performance import perform
from avatar_core.speech.espeak import synthesize
from tests.metrics.tiny_networks import (
    One,
    Pose,
    PublishedI3D,
    PublishedInception,
    save_onnx,
    save_script,
    save_syncnet,
)

torch.set_num_threads(1)


def of(metric, path):
    return metric(str(path), sha256_file(path))


@pytest.fixture(scope="module")
def clip():
    person = Person.build(sample_identities(1, 9, "reference-test")[0])
    speech = synthesize("Bob met a happy boy by the big boat.", "en", "otto")
    acted = perform(speech, 24, 5)
    camera = framing_camera(person.vertices(), "face", 160)
    shots = [
        person.render(acted.face_weights[t], acted.rotvecs[t], acted.translation[t], camera)[0]
        for t in range(24)
    ]
    frames = np.stack(shots)
    return Clip("one", frames, None, frames[::-1].copy(), frames[0], audio=speech.audio, person="Ann")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file for every metric, as a user would bring them."""
    folder: Path = tmp_path_factory.mktemp("networks")
    return {
        "IQA": save_script(folder / "quality.pt", One(5)),
        "ASE": save_onnx(folder / "aesthetics.onnx", (3, 448, 448), (5,)),
        "SyncC": save_syncnet(folder / "syncnet.safetensors"),
        "HKC": save_onnx(folder / "dwpose.onnx", (3, 384, 288), (133, 576), (133, 768), scale=0.1),
        "CSIM": save_onnx(folder / "arcface.onnx", (3, 112, 112), (512,)),
        "FID": save_script(folder / "inception.pt", PublishedInception(2048)),
        "FVD": save_script(folder / "i3d.pt", PublishedI3D(400)),
    }


@pytest.fixture(scope="module")
def metrics(files):
    classes = (IQA, ASE, HKC, CSIM, FID, FVD)
    found = {cls.__name__: of(cls, files[cls.__name__]) for cls in classes}
    found |= {cls.__name__: of(cls, files["SyncC"]) for cls in (SyncC, SyncD)}
    for metric in found.values():
        metric.check()
    return found


@pytest.fixture(scope="module")
def scored(clip, metrics):
    return score_clip(clip, load_critics(), metrics)


def test_every_metric_is_measured_by_its_network_and_says_by_which(scored, metrics):
    values = summarise([scored], metrics, draws=10)
    for name, value in values.items():
        assert value.status == "ok" and value.backend == "reference", (name, value)
        assert f"{Path(metrics[name].path).name} {metrics[name].sha256[:12]}" in value.note
    assert values["HKC"].note.startswith(HKC_VERSION)
    assert all(1 < values[name].value < 5 for name in ("IQA", "ASE"))
    assert 0 < values["HKC"].value < 1 and -1 <= values["CSIM"].value <= 1
    assert values["SyncC"].value > 0 and values["SyncD"].value > 0
    assert values["FVD"].value > 0  # the truth is the same frames from the end


def test_damage_moves_every_value(clip, metrics, scored):
    dark = dataclasses.replace(clip, frames=(clip.frames * 0.5).astype(np.uint8))
    other = score_clip(dark, load_critics(), metrics)
    assert not other.missing
    for name in metrics:
        one, two = (
            np.asarray(s.parts[name][0] if name in ("FID", "FVD") else s.parts[name]) for s in (scored, other)
        )
        assert not np.allclose(one, two, rtol=1e-4), name


def test_csim_looks_at_the_aligned_face_alone(clip, files):
    """What is beside the face may change, a larger picture of the same face too."""
    metric, critics = of(CSIM, files["CSIM"]), load_critics()
    own = metric.measure(Look(clip, critics))
    look = Look(clip, critics)
    points = five_points(look.people.face[0])
    assert points[0, 0] < points[2, 0] < points[1, 0] and points[3, 0] < points[4, 0]
    assert points[:2, 1].max() < points[2, 1] < points[3:, 1].min()
    beside = clip.frames.copy()
    beside[:, :8] = 255
    assert metric.measure(Look(dataclasses.replace(clip, frames=beside), critics)) == pytest.approx(
        own, abs=0.02
    )
    blank = dataclasses.replace(clip, frames=np.zeros_like(clip.frames))
    assert metric.measure(Look(blank, critics)) == 0.0
    with pytest.raises(ValueError, match="no face in the portrait"):
        metric.measure(Look(dataclasses.replace(clip, portrait=np.zeros_like(clip.portrait)), critics))


def test_what_a_clip_lacks_is_said(clip, files):
    critics = load_critics()
    cases = {
        "no audio": (of(SyncC, files["SyncC"]), dataclasses.replace(clip, audio=None)),
        "the mouth is too small": (of(SyncD, files["SyncC"]), dataclasses.replace(clip, mouth_seen=False)),
        "clips under 21 frames": (of(SyncC, files["SyncC"]), dataclasses.replace(clip, frames=clip.frames[:20])),
        "no face in the frames": (of(SyncC, files["SyncC"]), dataclasses.replace(clip, frames=np.zeros_like(clip.frames))),
        "clips under 16 frames": (of(FVD, files["FVD"]), dataclasses.replace(clip, frames=clip.frames[:15])),
        "hands are not in the framing": (of(HKC, files["HKC"]), dataclasses.replace(clip, hands_seen=False)),
        "no portrait": (of(CSIM, files["CSIM"]), dataclasses.replace(clip, portrait=None)),
    }  # fmt: skip
    for line, (metric, seen) in cases.items():
        with pytest.raises(ValueError, match=line):
            metric.measure(Look(seen, critics))


def test_the_search_over_offsets_finds_a_shift():
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(60, 1024))
    late = np.roll(pictures, 4, 0) + 0.05 * rng.normal(size=pictures.shape)
    curve = offset_curve(pictures, late)
    assert len(curve) == 31 and curve.argmin() == 15 + 4 and curve.min() < 0.5 * np.median(curve)


@pytest.mark.parametrize("metric", [IQA, HKC, CSIM, FID, FVD, SyncC])
def test_a_wrong_file_is_refused_in_one_line_before_work(tmp_path, files, metric):
    name = "SyncC" if metric is SyncC else metric.__name__
    right = files[name]
    whole = right.read_bytes()
    with pytest.raises(
        UserError, match=r"expected SHA-256 0{12}\.\.\., found .*another file, or damaged"
    ) as caught:
        metric(str(right), "0" * 64).check()
    assert str(right) in str(caught.value) and "\n" not in str(caught.value)
    cut = tmp_path / right.name
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="expected SHA-256"):  # of the whole file
        metric(str(cut), sha256_file(right)).check()
    with pytest.raises(UserError, match="expected .* found") as caught:  # declared as it is: still no network
        of(metric, cut).check()
    assert str(cut) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"expected .* found no such file; place it there"):
        metric(str(tmp_path / "none.onnx"), "0" * 64).check()
    other = tmp_path / "weights.pth"
    other.write_bytes(b"a pickle")
    with pytest.raises(UserError, match=r"in a file \.\w+ or .*, found \.pth"):
        of(metric, other).check()


def test_a_network_of_other_outputs_is_refused(tmp_path, files):
    wrong = save_script(tmp_path / "logits.pt", One(1008))
    with pytest.raises(UserError, match="found outputs of 1008 instead of 2048 numbers"):
        of(FID, wrong).check()
    with pytest.raises(UserError, match="found outputs of 512 instead of 400 numbers"):
        of(FVD, save_script(tmp_path / "arcface.pt", One(512))).check()
    with pytest.raises(UserError, match="found outputs of 5 instead of 2048"):
        of(FID, save_onnx(tmp_path / "levels.onnx", (3, 299, 299), (5,))).check()
    with pytest.raises(UserError, match=r"found outputs of 5 instead of 76608 and 102144"):
        of(HKC, files["IQA"]).check()
    with pytest.raises(UserError, match="no methods forward_lip and forward_aud"):
        of(SyncC, files["IQA"]).check()
    fails = save_script(tmp_path / "fails.pt", PublishedI3D(400))
    with pytest.raises(UserError, match=r"found a network that fails on \(3, 112, 112\)"):
        of(CSIM, fails).check()
    with pytest.raises(UserError, match="expected SyncNet's weights, found .*Missing key"):
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
        of(SyncC, tmp_path / "other.safetensors").check()
    with pytest.raises(UserError, match="expected no reference for a formula"):
        PSNR("x", "0").check()


def test_torchscript_and_onnx_of_one_network_agree(tmp_path):
    """The pose network's two outputs come in the order that the metric wants from both."""
    signature = HKC.signature
    assert signature is not None
    x = np.random.default_rng(0).normal(size=(3, 3, 384, 288)).astype(np.float32)
    reversed_order = save_onnx(tmp_path / "p.onnx", (3, 384, 288), (133, 768), (133, 576))
    for path in (save_script(tmp_path / "p.pt", Pose(133 * 576, 133 * 768)), reversed_order):
        run = load_network(NetworkFile(path, sha256_file(path), "pose"), signature)
        assert [out.shape for out in run(x)] == [(3, n) for n in signature.outputs]
        assert np.allclose(run(x)[0][1], run(x[1:2])[0][0], atol=1e-6)
