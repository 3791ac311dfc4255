"""One portrait to a canonical avatar: a template person drawn by the renderer stands in for a photo."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.errors import UserError
from avatar_core.geometry.camera import look_at
from avatar_core.particles.budgets import ParticleBudgets
from avatar_core.particles.deformation import Deformation, LocalFrames
from avatar_core.particles.layout import make_layout
from avatar_core.perception.backends import PerceptionConfig
from avatar_core.personalise.config import PersonaliseConfig, RefineConfig
from avatar_core.personalise.personalise import check_portrait, personalise
from avatar_core.personalise.surface import silhouette
from avatar_core.template import keypoint_template, load_template, pose_template, relaxed_rotvecs
from avatar_core.template.landmarks import KEYPOINTS

SIZE = 192
BUDGETS = {"face": 500, "hand": 150, "eyes": 60, "mouth_interior": 60, "body": 700}


class Known:
    """A detector that knows where the keypoints are."""

    def __init__(self, xy, confidence):
        self.xy, self.confidence = xy, confidence

    def keypoints(self, images):
        scale = images.shape[1] / SIZE
        return (self.xy * scale)[None], self.confidence[None]


def seeing(xy, confidence):
    """Detectors that know where the keypoints are."""
    usual = PerceptionConfig()
    return replace(usual, chosen=usual.chosen | {"keypoints": Known(xy, confidence)})


@pytest.fixture(scope="module")
def scene():
    template = load_template()
    shape = np.random.default_rng(5).normal(size=10).astype(np.float32) * 0.7
    vertices = pose_template(template, shape, relaxed_rotvecs())
    camera = look_at((0, -4.2, 1.25), (0, 0, 1.25), 17.0, SIZE, SIZE)
    person = silhouette(vertices, template.faces, camera)
    image = np.full((SIZE, SIZE, 3), 0.8, np.float32)
    rows = np.nonzero(person)[0]
    image[person] = np.where(rows[:, None] < 60, [0.75, 0.5, 0.4], [0.2, 0.3, 0.6])
    with torch.no_grad():
        points = keypoint_template().keypoints(
            torch.from_numpy(shape), torch.from_numpy(relaxed_rotvecs())[None]
        )[0]
    xy, _ = camera.project(points.numpy())
    confidence = np.where(((xy > 0) & (xy < SIZE)).all(1), 0.95, 0.0)
    config = PersonaliseConfig(
        pose_steps=30,
        refine=RefineConfig(steps=25, sharp_steps=10),
        particles=ParticleBudgets(**BUDGETS, shell=200),
    )
    known = seeing(xy, confidence)
    return image, known, config, personalise(image, known, config=config)


def test_the_avatar_looks_like_the_portrait(scene):
    canonical, camera, fit = scene[3]
    assert fit.psnr_foreground > 20  # only 35 steps at a small size
    assert fit.keypoint_error_px < 1.0
    assert camera.width == SIZE and 1.4 < canonical.stature < 2.1
    assert canonical.n_base == sum(np.bincount(make_layout(ParticleBudgets(**BUDGETS)).region))


def test_it_composes_and_keeps_lips_apart_in_the_graph(scene):
    canonical, _, _ = scene[3]
    layout = make_layout(ParticleBudgets(**BUDGETS))
    n = canonical.n_base
    still = Deformation(torch.zeros(1, n, 3), torch.zeros(1, n, 3))
    means = LocalFrames(canonical, layout).compose(still).means
    assert np.abs(means[0].numpy() - canonical.means).max() < 1e-4
    assert layout.lips_lower[0] not in canonical.knn[layout.lips_upper[0]]
    assert (canonical.anchor[:n] == np.arange(n)).all() and (canonical.anchor < n).all()


def test_it_is_deterministic(scene):
    image, known, config, (canonical, _, _) = scene
    again, _, _ = personalise(image, known, config=config)
    assert (again.means == canonical.means).all() and (again.colors == canonical.colors).all()


def test_no_person_is_a_user_error(scene):
    image, known, config, _ = scene
    with pytest.raises(UserError, match="person"):
        personalise(image, seeing(known.chosen["keypoints"].xy, np.zeros(len(KEYPOINTS))), config=config)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1, 3)),
        np.zeros((100, 100)),
        np.full((100, 100, 3), 0.5),
        np.full((100, 100, 3), np.nan),
        np.zeros((100, 100, 4), np.uint8),
        np.zeros((64, 2000, 3)),
    ],
    ids=["tiny", "grey", "even", "nan", "transparent", "stripe"],
)
def test_bad_pictures_are_user_errors(image):
    with pytest.raises(UserError, match=r"^portrait: expected"):
        check_portrait(image)
