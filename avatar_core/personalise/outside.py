"""Nothing floats: particles that show beside the person, in the portrait's own pose, are not shown. Nor are those that the next
move would bring there: a body that ends behind a forearm, at a table, would come out below it.

Legend: N particles, H W pixels of the portrait.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar_core.particles.layout import REGIONS
from avatar_core.particles.splats import float_tensor
from avatar_core.personalise.appearance import PortraitParticles
from avatar_core.personalise.inside import GONE
from avatar_core.personalise.refine import contribution
from avatar_core.personalise.sleeves import Arms
from avatar_core.personalise.view import View, render

LEAST_ALPHA = 0.03  # of a pixel that still has some of the person in it
GROW_PX = 1  # the renderer's pixels are a little wider than the portrait's
MOST_BESIDE = 0.25  # share of a particle that may show beside the person
BELOW_M = 0.12  # from the person's end below an arm: what a body moves there, and the arm's own thickness
HIDDEN = 0.3  # share of a particle that the arm before it leaves to be seen


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


def hide_below_arms(particles: PortraitParticles, view: View, arms: Arms) -> PortraitParticles:
    """particles without those of trunk and legs that a forearm or hand hides where the person ends right below it.

    Locked by test_a_body_that_ends_behind_a_forearm_stays_there.
    """
    splats, camera = particles.splats(), view.camera
    xy, depth = camera.project(particles.means)
    part = arms.part[particles.anchor]
    # Beside an arm that hangs the body goes on, and comes out where the arm swings.
    lies = [k for k in (0, 1) if _across(xy, arms.side[particles.anchor] == k, arms.along[particles.anchor])]
    before = float_tensor(np.isin(part, [1 + 3 * k + fore for k in lies for fore in (1, 2)]))
    image, alpha = render(view, replace(splats, colors=before[:, None].expand(-1, 3)), torch.zeros(3))
    by_arm = (image[..., 0] > 0.5 * alpha).numpy() & (view.mask.numpy() > 0.5)
    column, row = np.floor(xy[:, 0]).astype(int), np.floor(xy[:, 1]).astype(int)
    framed = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height) & (depth > 0)
    body = framed & (part == 0) & (particles.region != REGIONS["face"])
    rows = np.flatnonzero(body)
    rows = rows[by_arm[row[rows], column[rows]]]
    down = rows_to_outside(beside(view).numpy() > 0.5)
    metres = down[row[rows], column[rows]] * depth[rows] / camera.K[1, 1]
    armless = replace(splats, opacities=splats.opacities * (1 - before))
    shown, could = (contribution(view, of).numpy()[rows] for of in (splats, armless))
    gone = rows[(shown < HIDDEN * could) & (metres < BELOW_M)]
    logits = particles.logit_opacities.copy()
    logits[gone] = GONE
    return replace(particles, logit_opacities=logits)


def _across(xy: np.ndarray, arm: np.ndarray, along: np.ndarray) -> bool:
    """Does the forearm of the particles `arm` (N,) bool, at xy (N,2) px, lie across the picture rather than hang?"""
    elbow, wrist = (arm & (np.abs(along - end) < 0.25) for end in (1, 2))
    if not elbow.any() or not wrist.any():
        return False
    dx, dy = np.abs(xy[wrist].mean(0) - xy[elbow].mean(0))
    return bool(dx > dy)


def rows_to_outside(outside: np.ndarray) -> np.ndarray:
    """(H,W): how many rows straight below each pixel the next one of outside (H,W) bool is; infinite where there is none."""
    height = len(outside)
    row = np.where(outside, np.arange(height)[:, None], np.inf)
    return np.minimum.accumulate(row[::-1])[::-1] - np.arange(height)[:, None]
