"""The artificial person of the motion tests, two clips of it as the trainings take them, and what stands in for a GPU."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from avatar_core.device import Compute
from avatar_core.distill import train as distill
from avatar_core.distill.train import DistillClip
from avatar_core.geometry.camera import Camera, look_at
from avatar_core.particles.deformation import LocalFrames
from avatar_core.particles.splats import rasterize_splats
from avatar_core.perception.tracks import bind_tracks
from avatar_core.personalise.appearance import PortraitParticles
from avatar_core.personalise.view import View
from avatar_core.score.clips import ScoreClip
from avatar_core.training import loop
from tests.fit.clip_scene import scene

_path = Path(__file__).parents[1] / "motion" / "conftest.py"
_spec = importlib.util.spec_from_file_location("artificial_person", _path)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
person, talk, clips, _one_thread = _module.person, _module.talk, _module.clips, _module._one_thread
codec, data = _module.codec, _module.data

CAMERA = look_at((0, -2.2, 1.3), (0, 0, 1.2), 40.0, 32, 32)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


@pytest.fixture(scope="module")
def distill_clips(person, clips, data):
    """The first two clips, seen by the score teacher."""
    canonical, layout = _large(person)
    out = []
    for (_, clip), motion in zip(clips[:2], data, strict=False):
        splats = LocalFrames(canonical, layout).compose(clip.deformation)
        with torch.no_grad():
            images, _ = rasterize_splats(splats, CAMERA, background=torch.full((3,), 0.5))
        pixels, depth = CAMERA.project(splats.means.numpy()[:, :430])
        frames = (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        view = distill.View(
            CAMERA.viewmat, np.repeat(CAMERA.K[None], len(frames), 0), frames, np.full((32, 32, 3), 0.5, np.float32),
            bind_tracks(pixels[:, 200:350:5], pixels, depth), True,
        )  # fmt: skip
        out.append(DistillClip(motion, "A", view, motion.audio))
    return out


@pytest.fixture(scope="module")
def large(person):
    """(canonical, layout) with particles that show at 32 px."""
    return _large(person)


def portrait():
    """(particles, view) of the fit's scene as a portrait to refine."""
    known = scene()
    canonical = known.canonical
    n = canonical.n_base
    splats = canonical.splats()
    with torch.no_grad():
        image, alpha = rasterize_splats(splats, known.camera)
    particles = PortraitParticles(
        canonical.means, canonical.quats, canonical.log_scales, canonical.logit_opacities, 0.8 * canonical.colors,
        canonical.region, canonical.anchor, np.ones(n, bool), np.ones(n), n,
    )  # fmt: skip
    backdrop = np.zeros_like(image.numpy())
    return particles, View.of(known.camera, image.numpy(), backdrop, alpha[..., 0].numpy(), image.numpy())


def _large(person):
    canonical, layout = person
    sizes = np.full_like(canonical.log_scales, np.log(0.02))
    return replace(canonical, log_scales=sizes, pixel=2 / float(CAMERA.K[0, 0])), layout


@pytest.fixture
def score_clips():
    rng = np.random.default_rng(2)
    return [
        ScoreClip(
            rng.integers(0, 255, (9, 32, 32, 3), np.uint8), rng.normal(size=(36, 80)).astype(np.float32)
        )
        for _ in range(4)
    ]


@pytest.fixture
def unnamed_is_nowhere():
    """Within it a tensor that is made without naming its device has no numbers, and nothing is left from before."""

    @contextmanager
    def within():
        forget()
        torch.set_default_device("meta")
        try:
            yield
        finally:
            torch.set_default_device(None)

    yield within
    forget()


@pytest.fixture
def card(monkeypatch):
    """torch's device without numbers in place of a GPU: reading from it, or mixing it with the CPU's tensors, is an error.

    Trainings read their losses every third step, which is where they end here.
    """
    traffic = Traffic()
    put, tensors = Compute.put, Camera.tensors
    monkeypatch.setattr(Compute, "put", traffic.batch(put))
    monkeypatch.setattr(Camera, "tensors", traffic.batch(tensors))
    monkeypatch.setattr(
        sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *_, **__: None
    )
    monkeypatch.setattr("avatar_core.particles.splats.rasterize", flat_picture)
    monkeypatch.setattr(loop, "READ_EVERY", 3)
    yield traffic
    forget()


class Traffic(TorchDispatchMode):
    """Counts tensors on their way to the device, in the batch and beside it."""

    def __init__(self):
        super().__init__()
        self.in_batch = self.beside = self.steps = 0
        self._batch = False

    def batch(self, function):
        def counted(*arguments):
            self._batch = True
            try:
                return function(*arguments)
            finally:
                self._batch = False

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if func in COPIES and given:
            source = given[-1]
            if isinstance(out, torch.Tensor) and (source.device, out.device) == (_CPU, _CARD):
                self.in_batch += self._batch
                self.beside += not self._batch
            return out
        mixed = {t.device for t in given if t.ndim or t.device == _CARD}
        assert len(mixed) < 2, f"{func} of tensors on {mixed}, shapes {[tuple(t.shape) for t in given]}"
        return out


_CPU, _CARD = torch.device("cpu"), torch.device("meta")


def flat_picture(
    means, quats, scales, opacities, colors, viewmats, Ks, width, height, *, background=None, **_
):
    """As `rasterize`: all that is given counts, and must be on one device."""
    shape = torch.broadcast_shapes(means.shape[:-2], colors.shape[:-2], viewmats.shape[:-2], Ks.shape[:-2])
    level = sum(t.flatten(-2).mean(-1) for t in (means, quats, scales, colors, viewmats, Ks))
    level = (level + opacities.mean(-1)).expand(shape)[..., None, None, None]
    alpha = level.expand(*shape, height, width, 1)
    image = level.expand(*shape, height, width, 3)
    return image if background is None else image + (1 - alpha) * background, alpha


def forget():
    """Empty what functions of the library keep between calls."""
    for name, module in list(sys.modules.items()):
        if name.startswith("avatar_core"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
