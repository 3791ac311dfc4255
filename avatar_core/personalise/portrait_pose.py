"""Who stands where in a portrait: template shape, pose, expression and camera from what a detector saw, by maximum a posteriori.

The camera looks horizontally along +Y; its pitch and roll are part of the root's rotation. Its field of view is the one that the
picture's file tells, or is estimated along with the rest. Size and distance cannot be told apart in one picture: the prior on the
shape coefficients (one unit is one standard deviation of sampled adults) decides, so an average portrait gets an average stature.
A picture does not tell either whether a limb that looks short points towards the camera or away: `limbs` knows more.

Levenberg and Marquardt with iteratively reweighted residuals. Legend: T candidates, P values, K keypoints, S shape components,
B bones, F free bones, A face actions, L limbs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar_core.geometry.camera import Camera
from avatar_core.personalise.limbs import LIMBS, LimbPrior
from avatar_core.template.landmarks import BODY_KEYPOINTS, FACE_POINTS, HAND_JOINTS, KEYPOINT_INDEX, KEYPOINTS
from avatar_core.template.pose import keypoint_template, relaxed_rotvecs

FOV_DEG = 17.0  # a portrait lens: what 85 to 135 mm give on full frame
LOOK = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float32)  # world -> camera axes, looking along +Y

# Spread (radians) of each bone's rotation about the relaxed stance; bones not listed stay there.
_SPREAD = {"root": 0.3, "spine04": 0.08, "spine02": 0.08, "neck01": 0.15, "head": 0.25, "clavicle": 0.12} | {
    "upperarm01": 0.5, "lowerarm01": 0.5, "lowerarm02": 0.3, "wrist": 0.3, "upperleg01": 0.2, "lowerleg01": 0.15
}  # fmt: skip
_FINGER_SPREAD = 0.3
_TAILS = 1.5  # spreads beyond which a turn of arms, legs and fingers costs only in proportion: people do fold their arms
_TAILED = ("upperarm", "lowerarm", "wrist", "finger", "upperleg", "lowerleg", "root", "head")
_SIGMA_M = {"body": 0.02, "hand": 0.010, "face": 0.0022}  # what a detector is off by, in metres at the person
_OUTLIER = 3.0  # errors beyond this many sigmas grow only linearly
_LOOSE = {
    "crown": 4.0,
    "pelvis": 2.0,
    "chest": 2.0,
    "neck": 1.5,
    "jaw.3.L": 2.0,
    "jaw.3.R": 2.0,
    "jaw.4.L": 3.0,
    "jaw.4.R": 3.0,
}
_ACTION_SCALE = 0.1
_CONVERGED, _PATIENCE = 5e-4, 3  # share of the cost by which one of so many steps must improve it
_NEAREST_M = 0.25


@dataclass(frozen=True)
class Sighting:
    """What a detector saw of a person in a picture: keypoints xy (K,2) px with confidence (K,); limbs (L,3), directions of LIMBS
    as unit vectors in camera axes (x right, y down, z away) with limb_confidence (L,), zeros where unknown; fov_deg: the lens's
    field of view across the longer side; lens_sigma: of the focal length's logarithm, 0 where it is known."""

    xy: np.ndarray
    confidence: np.ndarray
    limbs: np.ndarray
    limb_confidence: np.ndarray
    fov_deg: float
    lens_sigma: float

    @staticmethod
    def flat(xy: np.ndarray, confidence: np.ndarray) -> Sighting:
        """Keypoints alone, through a portrait lens; nothing known about depth."""
        return Sighting(xy, confidence, np.zeros((len(LIMBS), 3)), np.zeros(len(LIMBS)), FOV_DEG, 0.0)


@dataclass(frozen=True)
class PortraitPose:
    """shape (S,), rotvecs (B,3), face_weights (A,) and the camera; error_px: median error of the keypoints that were seen."""

    shape: np.ndarray
    rotvecs: np.ndarray
    face_weights: np.ndarray
    camera: Camera
    error_px: float


def fit_portrait_pose(
    sighting: Sighting, width: int, height: int, *, components: int = 50, steps: int = 40
) -> PortraitPose:
    """Fit the template to what was seen in an image of this size; steps: at most so many of Levenberg and Marquardt."""
    problem = _Problem(sighting, width, height, components)
    values, damping, still = problem.start(), 1e-2, 0
    for step in range(steps):
        # Expressions come late: until the head is in place they would explain its pose away.
        early = step < steps // 6
        # What a pixel is in metres is held over a step: else errors shrink with the person, and people come out small.
        pixel = problem.pixel(values)
        cost, hessian, gradient = problem.normal_equations(values, pixel)
        free = problem.free(values, gradient, early)
        improved = 0.0
        for _ in range(6):
            damped = hessian + torch.diag(damping * hessian.diagonal() + 1e-9)
            change = torch.zeros_like(gradient)
            change[free] = torch.linalg.solve(damped[free][:, free], gradient[free])
            moved = problem.bounded(values - change.float())
            lower = float(problem.costs(moved[None], pixel)[0])
            if lower < cost:
                improved, values, damping = cost - lower, moved, max(0.3 * damping, 1e-6)
                break
            damping *= 4
        still = still + 1 if improved < _CONVERGED * cost and not early else 0
        if still == _PATIENCE:
            break
    return problem.pose(values)


class _Problem:
    """Residuals of one portrait. Its values (P,): shape (S,), turns (F,3) of the free bones in spreads, actions (A,), the camera's
    move (3,) m and the logarithm of its focal length over the assumed one."""

    def __init__(self, sighting: Sighting, width: int, height: int, components: int) -> None:
        self.model = keypoint_template()
        names = self.model.template.bone_names
        self.size = (width, height)
        self.focal = max(width, height) / 2 / float(np.tan(np.radians(sighting.fov_deg) / 2))
        self.lens_sigma = sighting.lens_sigma
        self.target = torch.from_numpy(np.asarray(sighting.xy, np.float32))
        self.weight = torch.from_numpy(np.asarray(sighting.confidence, np.float32)).clamp(0, 1)
        self.sigma, spread = _sigmas(), _spreads(names)
        self.relaxed = torch.from_numpy(relaxed_rotvecs(self.model.template))
        self.bones = torch.nonzero(spread)[:, 0]
        self.spread = spread[self.bones, None]
        tailed = torch.tensor([names[int(b)].startswith(_TAILED) for b in self.bones])
        tails = torch.where(tailed, _TAILS, 1e6)
        self.limits = torch.cat([_OUTLIER * self.weight.clamp_min(1e-6), tails])
        self.limbs = LimbPrior(sighting.limbs, sighting.limb_confidence, self.model)
        self.look, self.centre = torch.from_numpy(LOOK), torch.tensor([width / 2, height / 2])
        sizes = (components, 3 * len(self.bones), len(self.model.template.face_action_names), 3, 1)
        ends = np.cumsum([0, *sizes])
        parts = [slice(int(a), int(b)) for a, b in zip(ends, ends[1:], strict=False)]
        self.shape, self.turns, self.actions, self.move, self.zoom = parts
        steps = (1e-2, 1e-2, 1e-2, 1e-3, 1e-3)  # of finite differences
        self.step = torch.cat([torch.full((n,), e) for n, e in zip(sizes, steps, strict=True)])

    def start(self) -> Tensor:
        """The relaxed stance, where the keypoints are."""
        values = torch.zeros(len(self.step))
        points = self.model.keypoints(None, self.relaxed[None])[0] @ self.look.T
        values[self.move] = _initial_move(points, self.target, self.weight**2, self.focal, self.centre)
        return values

    def bounded(self, values: Tensor) -> Tensor:
        """values with actions in [0, 1] and the person before the camera."""
        values[self.actions] = values[self.actions].clamp(0, 1)
        values[self.move.stop - 1] = values[self.move.stop - 1].clamp_min(_NEAREST_M)
        return values

    def free(self, values: Tensor, gradient: Tensor, early: bool) -> Tensor:
        """(P,) which values may move: no actions at first, and none that would leave its bounds."""
        out = torch.ones(len(values), dtype=torch.bool)
        at, slope = values[self.actions], gradient[self.actions]
        out[self.actions] = ~((at <= 0) & (slope >= 0)) & ~((at >= 1) & (slope <= 0)) & (not early)
        out[self.zoom] = self.lens_sigma > 0
        return out

    def rotvecs(self, values: Tensor) -> Tensor:
        """(T,P) -> (T,B,3)"""
        turn = values[:, self.turns].unflatten(1, (-1, 3))
        return self.relaxed.expand(len(values), -1, -1).index_add(1, self.bones, turn * self.spread)

    def points(self, values: Tensor, rotvecs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values (T,P) -> keypoints (T,K,3) in the world and in camera axes, and their pixels (T,K,2)."""
        body = self.model.keypoints(values[:, self.shape], rotvecs, None, values[:, self.actions])
        zoom = values[:, None, self.zoom].exp()
        # A longer lens stands further away: that way the two hardly depend on each other.
        move = values[:, None, self.move] * torch.cat([torch.ones_like(zoom).expand(-1, -1, 2), zoom], -1)
        seen = body @ self.look.T + move
        xy = self.focal * zoom * seen[..., :2] / seen[..., 2:].clamp_min(0.1) + self.centre
        return body, seen, xy

    def pixel(self, values: Tensor) -> Tensor:
        """(K,) metres that a pixel covers at each keypoint, from values (P,)."""
        _, seen, _ = self.points(values[None], self.rotvecs(values[None]))
        return seen[0, :, 2].clamp_min(0.1) / (self.focal * values[self.zoom].exp())

    def residuals(self, values: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
        """Values (T,P), metres of a pixel (K,) -> (T, 2K + 3F) residuals that count robustly, keypoints and turns, and (T,R)
        others."""
        rotvecs = self.rotvecs(values)
        body, seen, xy = self.points(values, rotvecs)
        off = (xy - self.target) * (self.weight / self.sigma * pixel)[:, None]
        robust = torch.cat([off.flatten(1), values[:, self.turns]], 1)
        lens = values[:, self.zoom] / max(self.lens_sigma, 1e-3)
        return robust, torch.cat([values[:, self.shape], lens, self.limbs.residuals(body, seen, rotvecs)], 1)

    def _norms(self, robust: Tensor) -> Tensor:
        """(T, K + F)"""
        k = 2 * len(self.weight)
        pairs, triples = robust[:, :k].unflatten(1, (-1, 2)), robust[:, k:].unflatten(1, (-1, 3))
        return torch.cat([pairs.norm(dim=-1), triples.norm(dim=-1)], 1)

    def costs(self, values: Tensor, pixel: Tensor) -> Tensor:
        """(T,) of values (T,P)."""
        robust, plain = self.residuals(values, pixel)
        norm, limit = self._norms(robust), self.limits
        bent = torch.where(norm > limit, limit * (norm - 0.5 * limit), 0.5 * norm * norm)
        return bent.sum(1) + 0.5 * plain.square().sum(1) + values[:, self.actions].sum(1) / _ACTION_SCALE

    def normal_equations(self, values: Tensor, pixel: Tensor) -> tuple[float, Tensor, Tensor]:
        """Cost, Gauss-Newton Hessian (P,P) and gradient (P,) in float64; derivatives by finite differences, all at once."""
        tried = torch.cat([values[None], values + torch.diag(self.step)])
        robust, plain = self.residuals(tried, pixel)
        norm = self._norms(robust[:1])[0]
        less = torch.where(norm > self.limits, self.limits / norm.clamp_min(1e-9), 1.0)
        k = len(self.weight)
        each = [less[:k].repeat_interleave(2), less[k:].repeat_interleave(3), torch.ones(plain.shape[1])]
        weight, every = torch.cat(each).double(), torch.cat([robust, plain], 1).double()
        slope = (every[1:] - every[0]) / self.step[:, None].double()  # (P,R)
        gradient = slope @ (weight * every[0])
        gradient[self.actions] += 1 / _ACTION_SCALE
        return float(self.costs(values[None], pixel)[0]), (slope * weight) @ slope.T, gradient

    def pose(self, values: Tensor) -> PortraitPose:
        width, height = self.size
        rotvecs = self.rotvecs(values[None])
        _, _, xy = self.points(values[None], rotvecs)
        error, seen = (xy[0] - self.target).norm(dim=-1), self.weight**2 > 0.1
        zoom = float(values[self.zoom].exp())
        focal, viewmat = self.focal * zoom, np.eye(4, dtype=np.float32)
        viewmat[:3, :3], viewmat[:3, 3] = LOOK, values[self.move].numpy() * [1, 1, zoom]
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
        return PortraitPose(
            shape=values[self.shape].numpy(),
            rotvecs=rotvecs[0].numpy(),
            face_weights=values[self.actions].numpy(),
            camera=Camera(viewmat, K, width, height),
            error_px=float(error[seen].median()) if seen.any() else float("inf"),
        )


def _initial_move(points: Tensor, target: Tensor, weight: Tensor, focal: float, centre: Tensor) -> Tensor:
    """Camera-space translation that puts points (K,3) roughly onto target (K,2): spread gives depth, means the rest."""
    share = weight / weight.sum().clamp_min(1e-6)

    def spread(value: Tensor) -> tuple[Tensor, Tensor]:
        middle = (share[:, None] * value).sum(0)
        return middle, (share[:, None] * (value - middle) ** 2).sum().sqrt()

    middle_m, size_m = spread(points[:, :2])
    middle_px, size_px = spread(target)
    depth = focal * size_m / size_px.clamp_min(1.0)
    xy = (middle_px - centre) * depth / focal - middle_m
    return torch.cat([xy, (depth - (share * points[:, 2]).sum())[None]]).detach().clone()


def _sigmas() -> Tensor:
    out = torch.full((len(KEYPOINTS),), _SIGMA_M["body"])
    for names, sigma in (
        (BODY_KEYPOINTS, _SIGMA_M["body"]),
        ((*HAND_JOINTS["L"], *HAND_JOINTS["R"]), _SIGMA_M["hand"]),
        (FACE_POINTS, _SIGMA_M["face"]),
    ):
        out[[KEYPOINT_INDEX[n] for n in names]] = sigma
    for name, factor in _LOOSE.items():
        out[KEYPOINT_INDEX[name]] *= factor
    return out


def _spreads(bone_names: tuple[str, ...]) -> Tensor:
    out = torch.zeros(len(bone_names))
    for b, name in enumerate(bone_names):
        stem = name.split(".")[0]
        out[b] = _FINGER_SPREAD if stem.startswith("finger") else _SPREAD.get(stem, 0.0)
    return out
