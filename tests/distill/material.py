"""What there is to distill: a person, a codec, a generator trained a little, two face-view clips with their rendered pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from avatar_core.audio.features import log_mel_numpy
from avatar_core.distill.train import DistillClip, View
from avatar_core.embed.batches import LatentClip
from avatar_core.embed.codec_fit import fit_codec
from avatar_core.embed.config import CodecConfig
from avatar_core.generator.config import DiTConfig, GeneratorConfig, RefinerConfig, TrainConfig
from avatar_core.generator.model import Generator
from avatar_core.generator.train import train_generator
from avatar_core.geometry.camera import look_at
from avatar_core.particles.deformation import LocalFrames
from avatar_core.particles.splats import rasterize_splats
from avatar_core.perception.tracks import bind_tracks

MODEL = GeneratorConfig(
    DiTConfig(dims=16, channels=32, heads=2), RefinerConfig(channels=16, heads=2), body_dims=8, face_dims=6
)
SIMPLE = TrainConfig(batch=4, window=24, silence=0.0)
CAMERA = look_at((0, -2, 1.57), (0, 0, 1.57), 12, 32, 32)


def _canonical(person):
    """Large and opaque, as sharp in CAMERA as in its portrait."""
    canonical, layout = person
    large = replace(
        canonical,
        log_scales=np.full_like(canonical.log_scales, np.log(0.012)),
        logit_opacities=np.full_like(canonical.logit_opacities, 3),
        pixel=2 / float(CAMERA.K[0, 0]),
    )
    return large, layout


@pytest.fixture(scope="module")
def material(person, clips):
    """Codec, a generator trained a little, and two face-view clips with their rendered pictures."""
    torch.set_num_threads(1)
    canonical, layout = _canonical(person)
    codec = fit_codec(
        [c for _, c in clips],
        layout,
        CodecConfig(body_dims=8, head_dims=3, face_dims=6, hand_dims=2, extra_dims=2, residual_steps=0),
    )
    out = []
    with torch.no_grad():
        for audio, clip in clips[:2]:
            x = codec.encode(clip.deformation).numpy()
            motion = LatentClip(
                log_mel_numpy(audio), x, dict.fromkeys(("body", "head", "face", "hand"), True)
            )
            splats = LocalFrames(canonical, layout).compose(clip.deformation)
            t = len(splats.means)
            images, _ = rasterize_splats(splats, CAMERA, background=torch.full((3,), 0.5))
            pixels, depth = CAMERA.project(splats.means.numpy()[:, :430])
            tracks = bind_tracks(pixels[:, 200:350:5], pixels, depth)
            frames = (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
            Ks = np.repeat(CAMERA.K[None], t, 0)
            view = View(CAMERA.viewmat, Ks, frames, np.full(3, 0.5, np.float32), tracks, True)
            out.append(DistillClip(motion, "A", view, motion.audio))
    generator = train_generator(
        [c.motion for c in out], codec, TrainConfig(steps=30, batch=4, window=24), MODEL
    )[0]
    return canonical, layout, codec, generator, out


def copy_of(codec, generator):
    return type(codec).from_tensors(*_clone(codec)), Generator.from_tensors(*_clone(generator))


def _clone(module):
    tensors, about = module.tensors()
    return {k: v.clone() for k, v in tensors.items()}, about
