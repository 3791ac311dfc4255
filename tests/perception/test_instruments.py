"""The shipped critics on people they never saw, rendered here: keypoints, confidence, identity, sync, quality."""

from __future__ import annotations

import functools
import json

import cv2
import numpy as np
import pytest
import torch

from avatar_core.io.atomic import sha256_file
from avatar_core.metrics.sync import sync_scores
from avatar_core.perception.instruments import ASSETS, NAMES, load_critics
from avatar_core.perception.layout import LAYOUT
from avatar_core.perception.warp import splats
from avatar_core.procedural.people import Person, framing_camera, sample_identities
from avatar_core.procedural.performance import perform
from avatar_core.speech.espeak import synthesize
from avatar_core.template.landmarks import keypoints_from_vertices

torch.set_num_threads(1)


@functools.cache
def people() -> list[Person]:
    return [Person.build(identity) for identity in sample_identities(2, 7, "critics-test")]


@functools.cache
def talk(who: int, text: str, seed: int = 3):
    """A short face-view clip -> frames (T,H,W,3) uint8, true keypoints (T,K,2), speech."""
    person = people()[who]
    speech = synthesize(text, "en", "otto")
    acted = perform(speech, speech.num_frames, seed)
    camera = framing_camera(person.vertices(), "face", 256)
    frames, truth = [], []
    for t in range(speech.num_frames):
        pose = acted.face_weights[t], acted.rotvecs[t], acted.translation[t]
        frames.append(person.render(*pose, camera)[0])
        points = keypoints_from_vertices(person.vertices(*pose), person.joints(*pose[1:]))
        truth.append(camera.project(points)[0])
    return np.stack(frames), np.stack(truth), speech


SENTENCE = "My mother bought a big blue boat."
OTHER = "We saw these three sheep sleeping."


def gap(xy: np.ndarray) -> np.ndarray:
    """Mean opening of the inner lips over the face's height."""
    lips = np.linalg.norm(xy[:, LAYOUT.lip_pairs[:, 0]] - xy[:, LAYOUT.lip_pairs[:, 1]], axis=-1).mean(1)
    return lips / np.ptp(xy[:, LAYOUT.face, 1], axis=1)


def test_assets_fit_their_sidecars_and_stay_small():
    total = 0
    for name in NAMES:
        path = ASSETS / f"critics_{name}.safetensors"
        sidecar = json.loads(path.with_suffix(".json").read_text())
        assert sidecar["sha256"] == sha256_file(path)
        assert sidecar["config"]["held_out"]
        assert "avatar_core.recipes.critics.train" in sidecar["config"]["script"]
        assert not set(sidecar["config"]["data"]["people_train"]) & set(
            sidecar["config"]["data"]["people_held_out"]
        )
        total += path.stat().st_size
    assert total <= 10e6


def test_lips_are_followed_on_unseen_people():
    frames, truth, _ = talk(0, SENTENCE)
    xy, confidence = load_critics().keypoints(frames)
    height = np.ptp(truth[:, LAYOUT.face, 1], axis=1).mean()
    lips = np.linalg.norm(xy[:, LAYOUT.lips] - truth[:, LAYOUT.lips], axis=-1) / height
    assert lips.mean() < 0.015
    assert np.corrcoef(gap(xy), gap(truth))[0, 1] > 0.95
    assert confidence[:, LAYOUT.lips].mean() > 0.8


def test_body_and_hands_are_found_in_a_portrait():
    person = people()[1]
    from avatar_core.procedural.people import neutral_face, relaxed_pose

    camera = framing_camera(person.vertices(), "portrait", 512)
    image, _ = person.render(neutral_face(), relaxed_pose(), np.zeros(3), camera)
    truth = camera.project(
        keypoints_from_vertices(person.vertices(None, relaxed_pose()), person.joints(relaxed_pose()))
    )[0]
    xy, confidence = load_critics().keypoints(image[None].astype(np.float32) / 255)
    error = np.linalg.norm(xy[0] - truth, axis=-1) / 512
    upper = [LAYOUT.names.index(f"{n}.{s}") for n in ("shoulder", "elbow", "wrist") for s in "LR"]
    assert error[upper].mean() < 0.03
    assert error[LAYOUT.face].mean() < 0.01
    for hand in (LAYOUT.hand_left, LAYOUT.hand_right):
        assert error[hand].mean() < 0.03
        assert confidence[0, hand].mean() > 0.3
    # Left and right are the person's own.
    assert xy[0, LAYOUT.hand_left, 0].mean() > xy[0, LAYOUT.hand_right, 0].mean()


def test_confidence_falls_without_a_person_and_with_blur():
    frames, _, _ = talk(0, SENTENCE)
    critics = load_critics()
    clear = critics.keypoints(frames[:4])[1][:, LAYOUT.lips].mean()
    blurred = np.stack([cv2.GaussianBlur(f, (0, 0), 9) for f in frames[:4]])
    empty = np.random.default_rng(0).random((4, 256, 256, 3)).astype(np.float32)
    assert critics.keypoints(blurred)[1][:, LAYOUT.lips].mean() < clear - 0.2
    assert critics.keypoints(empty)[1].mean() < 0.2
    assert critics.keypoints(np.full((1, 200, 300, 3), 0.6, np.float32))[1].mean() < 0.2


def test_hand_confidence_falls_when_hands_melt():
    person = people()[1]
    from avatar_core.procedural.people import neutral_face, relaxed_pose

    image, _ = person.render(
        neutral_face(), relaxed_pose(), np.zeros(3), framing_camera(person.vertices(), "waist_up", 256)
    )
    hands = np.concatenate([LAYOUT.hand_left, LAYOUT.hand_right])
    critics = load_critics()
    clear = critics.keypoints(image[None])[1][0, hands].mean()
    melted = cv2.GaussianBlur(image, (0, 0), 5)
    assert critics.keypoints(melted[None])[1][0, hands].mean() < clear


def test_keypoints_do_not_depend_on_batch_or_type():
    frames, _, _ = talk(0, SENTENCE)
    critics = load_critics()
    a, _ = critics.keypoints(frames[:3])
    b, _ = critics.keypoints(frames[2:3])
    c, _ = critics.keypoints(torch.from_numpy(frames[2:3].astype(np.float32) / 255))
    assert np.abs(a[2] - b[0]).max() < 0.02
    assert np.abs(b - c).max() < 0.05
    with pytest.raises(ValueError, match=r"\(B,H,W,3\)"):
        critics.keypoints(np.zeros((4, 4)))


def test_identity_tells_people_apart():
    critics = load_critics()
    a, b = talk(0, SENTENCE)[0], talk(1, OTHER)[0]
    ea, eb = critics.identity(a[::8]), critics.identity(b[::8])
    assert np.allclose(np.linalg.norm(ea, axis=1), 1, atol=1e-4)
    assert (ea @ ea.T).mean() > (ea @ eb.T).mean() + 0.25


def test_sync_prefers_the_own_audio_and_feels_a_shift():
    from avatar_core.audio.features import log_mel_numpy

    critics = load_critics()
    frames, _, speech = talk(0, SENTENCE)
    mel = log_mel_numpy(speech.audio)[: 4 * len(frames)]
    own = sync_scores(*critics.sync(frames, mel))
    other_mel = log_mel_numpy(synthesize(OTHER, "en", "otto").audio)
    other_mel = np.resize(other_mel, mel.shape)
    video, audio = critics.sync(frames, other_mel)
    foreign = sync_scores(video, audio)
    assert abs(own.offset) <= 1
    assert own.confidence > foreign.confidence
    assert own.distance < foreign.distance
    shifted = np.roll(mel, 4 * 6, axis=0)
    video, audio = critics.sync(frames, shifted)
    still = np.linalg.norm(video - audio, axis=1).mean()
    video, audio = critics.sync(frames, mel)
    assert still > np.linalg.norm(video - audio, axis=1).mean()


def test_quality_falls_with_blur_noise_and_stray_splats():
    critics = load_critics()
    frames = np.stack([talk(0, SENTENCE)[0][0], talk(1, OTHER)[0][0]])
    clear = critics.quality(frames).mean()
    blurred = np.stack([cv2.GaussianBlur(f, (0, 0), 3) for f in frames])
    rng = np.random.default_rng(0)
    noisy = np.clip(frames + rng.normal(0, 25, frames.shape), 0, 255).astype(np.uint8)
    littered = np.stack([splats(f.astype(np.float32) / 255, np.random.default_rng(1), 60) for f in frames])
    assert critics.quality(blurred).mean() < clear - 0.3
    assert critics.quality(noisy).mean() < clear - 0.3
    assert critics.quality(littered).mean() < clear - 0.3
    dark = (frames * 0.2).astype(np.uint8)
    assert critics.aesthetics(dark).mean() < critics.aesthetics(frames).mean() - 0.2
    assert ((critics.quality(frames) >= 1) & (critics.quality(frames) <= 5)).all()


def test_frechet_features_rank_damage():
    from avatar_core.metrics.frechet import frechet_distance

    critics = load_critics()
    frames = talk(0, SENTENCE)[0]
    own = critics.frame_features(frames[::2])
    near = critics.frame_features(frames[1::2])
    far = critics.frame_features(np.stack([cv2.GaussianBlur(f, (0, 0), 4) for f in frames[1::2]]))
    assert frechet_distance(own, near).value < frechet_distance(own, far).value
    clips = critics.clip_features(frames, hop=2)
    frozen = critics.clip_features(frames[(np.arange(len(frames)) // 5) * 5], hop=2)
    other = critics.clip_features(frames, hop=3)
    assert frechet_distance(clips, other).value < frechet_distance(clips, frozen).value
    with pytest.raises(ValueError, match="16 frames"):
        critics.clip_features(frames[:5])
