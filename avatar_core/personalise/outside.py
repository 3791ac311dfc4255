"""Nothing floats: particles that show beside the person, in the portrait's own pose, are not shown.

Legend: N particles, H W pixels of the portrait.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar_core.personalise.appearance import PortraitParticles
from avatar_core.personalise.inside import GONE
from avatar_core.personalise.refine import contribution
from avatar_core.personalise.view import View

LEAST_ALPHA = 0.03  # of a pixel that still has some of the person in it
GROW_PX = 1  # the renderer's pixels are a little wider than the portrait's
MOST_BESIDE = 0.25  # share of a particle that may show beside the person


def beside(view: View) -> Tensor:
    """(H,W) float: 1 where a view shows nothing of the person."""
    person = (view.mask.numpy() > LEAST_ALPHA).astype(np.uint8)
    side = 2 * GROW_PX + 1
    return torch.from_numpy(1 - cv2.dilate(person, np.ones((side, side), np.uint8)).astype(np.float32))


def hide_outside(particles: PortraitParticles, view: View) -> PortraitParticles:
    """particles without those of which too much shows beside the person."""
    splats = particles.splats()
    shown, out = contribution(view, splats), contribution(view, splats, beside(view))
    wrong = (out > MOST_BESIDE * shown.clamp_min(1e-6)).numpy() & (out > 1e-4).numpy()
    return replace(particles, logit_opacities=np.where(wrong, GONE, particles.logit_opacities))
