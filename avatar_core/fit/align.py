"""Alignment of a person to a clip before the refinement: one smooth displacement of the surface, the same in every frame.

A portrait of the whole body tells the height of a shoulder to a pixel or two; a close-up shows that as ten, and a pattern of
the cloth then locks onto the wrong stripe. So a few frames are compared coarsely first, where stripes are only a tone and
the outline leads, then finer, the displacement as smooth as the picture is coarse. It moves particles and keypoints at the
canonical pose, for the refinement to start from. It is constant over the clip, so it cannot take over the motion of the lips.

Shapes: T frames, F chosen frames, K nodes, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from avatar_core.fit import losses
from avatar_core.fit.adam import FlooredAdam
from avatar_core.fit.clip_refine import render_window
from avatar_core.fit.pictures import Pictures
from avatar_core.fit.rig import FitRig, Ride, bones, orient, place, ride
from avatar_core.fit.track import Track
from avatar_core.geometry.camera import Camera, project


@dataclass(frozen=True)
class Level:
    """shrink: how many times smaller the picture is; smooth: metres over which the displacement varies; steps and their
    rate (mm)."""

    shrink: int
    smooth: float
    steps: int
    rate_mm: float

    def share(self, step: int) -> float:
        """Of the rate: a cosine from all of it to a fifth."""
        return 0.2 + 0.4 * (1 + float(np.cos(np.pi * step / self.steps)))


LEVELS = (Level(8, 0.25, 10, 8.0), Level(4, 0.12, 20, 4.0), Level(2, 0.06, 20, 2.0), Level(1, 0.03, 16, 1.0))
FRAMES = 5
STIFF = 100.0  # cost of strain
TIE = 0.02  # cost of a pixel of the keypoints: the face stays where they put it


def align(
    rig: FitRig, track: Track, pictures: Pictures, xy: np.ndarray, point_weight: Tensor, hold_head: bool
) -> Tensor:
    """(K,3) m: displacement of the nodes at the canonical pose that best shows the clip.

    xy (T,M,2) px and point_weight (T,M): the keypoints. hold_head: where the face is large enough to learn from, its
    keypoints place it better than a coarse picture can.
    """
    look = make_look(rig, track, xy, point_weight)
    free = freedom(rig, hold_head)
    found = rig.rest.new_zeros(len(rig.node_rest), 3)  # mm
    for level in LEVELS:
        camera = shrunk(track.camera, level.shrink)
        spread = spread_matrix(rig.node_rest, level.smooth)
        part = torch.zeros_like(found).requires_grad_()
        optimizer = FlooredAdam([part], [level.rate_mm])
        for step in range(level.steps):
            optimizer.clear()
            shift = 1e-3 * (found + free * (spread @ part))
            points = displaced_points(rig, look.transforms, look.weights, shift)
            loss = picture_loss(rig, points, look.how, camera, pictures, look.chosen, level.shrink)
            loss = loss + TIE * losses.point_loss(
                project(points[:, rig.n_base :], track.camera), look.marks, look.marks_weight
            )
            (loss + STIFF * strain(rig, shift)).backward()
            optimizer.step(level.share(step))
        found = (found + free * (spread @ part)).detach()
    return 1e-3 * found


@dataclass(frozen=True)
class Look:
    """The chosen frames (F,) of a clip where the track left them: transforms (F,R,12), face actions (F,A), turns of the
    splats; keypoints (F,M,2) px and their weight (F,M)."""

    chosen: Tensor
    transforms: Tensor
    weights: Tensor
    how: Ride
    marks: Tensor
    marks_weight: Tensor


@torch.no_grad()
def make_look(rig: FitRig, track: Track, xy: np.ndarray, point_weight: Tensor) -> Look:
    device = rig.rest.device
    chosen = chosen_frames(len(track.weights), FRAMES).to(device)
    marks = torch.from_numpy(np.asarray(xy, np.float32)).to(device)[chosen]
    weights = track.weights[chosen]
    transforms, quats = bones(rig, track.rotvecs[chosen], track.translation[chosen])
    how = ride(rig, orient(rig, quats, weights))
    return Look(chosen, transforms, weights, how, marks, point_weight[chosen])


def displaced_points(rig: FitRig, transforms: Tensor, weights: Tensor, shift: Tensor) -> Tensor:
    """Points (F,P,3) of the chosen frames with the nodes moved by shift (K,3) m."""
    still = rig.rest.new_zeros(len(weights), len(rig.node_rest), 3)
    return place(rig, transforms, weights, shift.expand_as(still), still)


def strain(rig: FitRig, shift: Tensor) -> Tensor:
    """How far a displacement (K,3) is from a rigid one."""
    still = torch.zeros_like(shift)[None]
    return losses.arap_edges(shift[None], still, rig.node_rest, rig.edges, rig.edge_weight, adjacent=False)


def freedom(rig: FitRig, hold_head: bool) -> Tensor:
    """(K,3) how freely nodes may move by axis; hold_head: as in `align`."""
    return below_head(rig) if hold_head else torch.ones_like(rig.node_rest)


def displaced(rig: FitRig, shift: Tensor) -> FitRig:
    """The rig with its nodes, and the points that follow them, moved by shift (K,3) m at the canonical pose."""
    rest = (rig.rest + rig.blend(shift).T).contiguous()
    return replace(rig, rest=rest, node_rest=rig.node_rest + shift)


def below_head(rig: FitRig) -> Tensor:
    """(K,3) how freely nodes may move by axis: 0 on the head, up to 1 on the body; never in depth, which the
    picture hardly shows and which would bend the face against its skull."""
    return (1 - rig.node_head)[:, None] * rig.node_head.new_tensor([1.0, 0.0, 1.0])


def picture_loss(
    rig: FitRig,
    points: Tensor,
    how: Ride,
    camera: Camera,
    pictures: Pictures,
    chosen: Tensor,
    shrink: int,
) -> Tensor:
    """L1 of the chosen frames' pictures and outlines, all smaller by `shrink`, per pixel of the foreground."""
    background = losses.shrink(pictures.background, shrink)
    colors = rig.colors.expand(len(chosen), -1, -1)
    image, alpha = render_window(rig, points[:, : rig.n_base], how, colors, camera, background)
    target = losses.shrink(pictures.target[chosen], shrink)
    mask = losses.shrink(pictures.foreground[chosen], shrink)
    error = (image - target).abs().mean(1) + (alpha - mask).abs()
    return error.mean() / mask.mean().clamp_min(1e-3)


def shrunk(camera: Camera, factor: int) -> Camera:
    """The camera of pictures `factor` times smaller, a remainder at the right and bottom left out."""
    K = camera.K.copy()
    K[:2] /= factor
    return replace(camera, K=K, width=camera.width // factor, height=camera.height // factor)


def spread_matrix(places: Tensor, reach: float) -> Tensor:
    """(K,K) rows summing to 1: mean over the neighbourhood of radius `reach` m, whatever the density of places (K,3)."""
    near = torch.exp(-0.5 * (torch.cdist(places, places) / reach).square())
    near = near / near.sum(0)
    return near / near.sum(1, keepdim=True)


def chosen_frames(frames: int, count: int) -> Tensor:
    """Frames spread over the clip, its ends left out."""
    count = min(count, frames)
    return torch.from_numpy(((np.arange(count) + 0.5) * frames / count).astype(np.int64))
