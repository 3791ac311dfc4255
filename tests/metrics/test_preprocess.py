"""What published networks are fed, against numbers that their own packages gave for the same input (preprocess_vectors.json).

Made once with python_speech_features 0.6 (mfcc), scikit-image 0.26 and OpenCV as insightface's face_align does (arcface), OpenCV's
float bilinear (inception: the same grid as pytorch-fid's torch call), StyleGAN-V's preprocess_single (i3d), transformers 5.24
CLIPImageProcessorPil after Q-Align's expand2square (qalign), rtmlib 0.0.16 (dwpose), joonson/syncnet_python's crop_video (crops).
"""

import json
from pathlib import Path

import numpy as np
import pytest

from avatar_core.metrics import preprocess
from avatar_core.metrics.syncnet import face_crops, mfcc
from avatar_core.perception.simcc import pose_input

VECTORS = json.loads((Path(__file__).parent / "preprocess_vectors.json").read_text())
ARCFACE = np.array([[101.5, 88.25], [147.0, 95.5], [119.25, 121.0], [98.75, 139.5], [133.0, 146.25]])


def picture(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([(7 * x + 13 * y) % 256, (x * x + 3 * y) % 256, (5 * x * y) % 256], -1).astype(np.uint8)


def assert_like(found, name, atol):
    wanted = VECTORS[name]
    for place, value in wanted["values"].items():
        where = tuple(int(n) for n in place.split(","))
        assert float(found[where]) == pytest.approx(value, abs=atol), (name, place)
    if "mean" in wanted:
        assert float(found.astype(float).mean()) == pytest.approx(wanted["mean"], abs=atol)


@pytest.mark.parametrize("name, shape", [("small", (64, 48)), ("large", (400, 520))])
def test_inception_is_fed_as_pytorch_fid_does(name, shape):
    frames = picture(*shape)[None]
    found = preprocess.inception_input(frames)
    assert found.shape == (1, 3, 299, 299) and found.dtype == np.float32
    assert_like(found[0], f"inception_{name}", 2e-4)
    assert np.allclose(preprocess.inception_input(frames / np.float32(255)), found, atol=1e-5)


@pytest.mark.parametrize("name, shape", [("wide", (100, 150)), ("high", (300, 230))])
def test_i3d_is_fed_as_stylegan_v_does(name, shape):
    clip = np.stack([np.roll(picture(*shape), t, 1) for t in range(3)])
    found = preprocess.i3d_input(clip)
    assert found.shape == (3, 3, 224, 224)
    assert_like(found, f"i3d_{name}", 1e-5)


@pytest.mark.parametrize("name, shape", [("wide", (120, 200)), ("high", (500, 380))])
def test_qalign_is_fed_as_its_scorer_does(name, shape):
    assert_like(preprocess.qalign_input(picture(*shape)[None])[0], f"qalign_{name}", 1e-5)


def test_arcface_is_fed_as_insightface_does():
    wanted = np.array(VECTORS["arcface"]["matrix"])
    assert np.allclose(preprocess.arcface_matrix(ARCFACE), wanted, atol=1e-4)
    assert_like(preprocess.arcface_input(picture(200, 260), ARCFACE), "arcface", 1e-6)


def test_dwpose_is_fed_as_rtmlib_does():
    found, _ = pose_input(picture(200, 260), np.array([0, 0, 260, 200]), 288, 384)
    assert found.shape == (3, 384, 288)
    assert_like(found, "dwpose", 0.02)  # a grey level is 0.017: their matrix is of single precision


def test_syncnet_hears_as_python_speech_features_does():
    n = np.arange(3977)
    tone = 8000 * np.sin(2 * np.pi * 440 * n / 16000) * np.sin(2 * np.pi * 3 * n / 16000)
    found, wanted = mfcc(np.round(tone + (n * 7919 % 2001 - 1000))), VECTORS["mfcc"]
    assert list(found.shape) == wanted["shape"]
    for row, values in wanted["rows"].items():
        assert np.allclose(found[int(row)], values, atol=1e-5)
    assert np.isfinite(mfcc(np.zeros(1600))).all() and len(mfcc(np.ones(100))) == 1


def test_syncnet_sees_the_crops_of_its_authors():
    frames = np.stack([np.roll(picture(160, 180), 3 * t, 1) for t in range(20)])
    boxes = np.array(VECTORS["syncnet_crops"]["boxes"])
    assert_like(face_crops(frames, boxes)[..., ::-1], "syncnet_crops", 1e-4)
