"""Motion about the stance of the photograph: what was learnt about the relaxed stance, played where the person stands.

A canonical avatar is stored in the relaxed stance that all people share; arms that were bent, crossed or hidden in the portrait
lack texture there, and tear. `StanceFrames` carries every particle back to where the portrait showed it and moves it from there.
The motion's segments (trunk, head, upper arms, forearms, hands) are recovered from the particles themselves by the best rigid
fit, as `deformation` does for head and wrists; each joint's turn, in axes that turn with the limb, is then played about the
photographed joint. Arms gesture as far as `freedom` says; trunk, head and face move in full.

Shapes: T frames, N base particles, S shell particles, B bones, G segments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import normalize

from avatar_core.geometry.rotations import (
    quat_conj,
    quat_from_rotvec,
    quat_mul,
    quat_rotate,
    quat_to_matrix,
    rigid_fit,
    rotvec_from_quat,
)
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.deformation import WORLD, Deformation
from avatar_core.particles.layout import ParticleLayout, particle_weights
from avatar_core.particles.splats import Splats, float_tensor
from avatar_core.template.mesh import Template, load_template
from avatar_core.template.pose import bone_transforms, relaxed_rotvecs

TRUNK, HEAD = 0, 1
ARM = {"L": (2, 3, 4), "R": (5, 6, 7)}  # upper arm, forearm, hand
SEGMENTS = 8
NECK = {"neck01": 0.2, "neck02": 0.5, "neck03": 0.8}  # share of the head's motion
CARRIES = 0.9  # weight from which a particle shows how its segment moves
CHEST_M = 0.45  # below the neck: what tells how the trunk turns
FREE_LIMIT = 0.9  # freedom from which a gesture may be as large as it comes
LARGEST_TURN = 0.2  # rad at a joint, of arms that are not free


def carry(canonical_shape: np.ndarray, stance: np.ndarray, template: Template) -> np.ndarray:
    """Relaxed -> posed transforms of the bones, (B, 3, 4) twice: rest -> relaxed, rest -> stance."""
    _, heads = template.rest(canonical_shape)
    relaxed = bone_transforms(heads, relaxed_rotvecs(template), None, template)
    return np.stack([relaxed, bone_transforms(heads, stance, None, template)])


def to_stance(canonical: Canonical, layout: ParticleLayout) -> Canonical:
    """The avatar as it stood in its portrait: `means` and `quats` there. The inverse of un-posing, particle by particle."""
    template = load_template()
    relaxed, posed = carry(canonical.shape, canonical.stance, template)
    weights = particle_weights(template, layout).astype(np.float64)
    there = np.einsum("nb,bij->nij", weights, posed)
    here = np.einsum("nb,bij->nij", weights, relaxed)
    linear = there[:, :, :3] @ np.linalg.inv(here[:, :, :3])
    shift = there[:, :, 3] - np.einsum("nij,nj->ni", linear, here[:, :, 3])
    linear, shift = linear[canonical.anchor], shift[canonical.anchor]
    means = np.einsum("nij,nj->ni", linear, canonical.means) + shift
    left, _, right = np.linalg.svd(linear)
    turn = Rotation.from_matrix(left @ right)
    quats = (turn * Rotation.from_quat(canonical.quats[:, [1, 2, 3, 0]])).as_quat()[:, [3, 0, 1, 2]]
    return replace(canonical, means=means.astype(np.float32), quats=quats.astype(np.float32))


def segment_weights(template: Template, layout: ParticleLayout) -> np.ndarray:
    """(N, G) how much of each particle goes with each segment; rows sum to 1."""
    to_segment = np.zeros((len(template.bone_names), SEGMENTS))
    for b, name in enumerate(template.bone_names):
        stem, _, side = name.partition(".")
        if stem in NECK:
            to_segment[b, [TRUNK, HEAD]] = 1 - NECK[stem], NECK[stem]
        elif stem in ("head", "eye"):
            to_segment[b, HEAD] = 1
        elif stem.startswith(("upperarm", "lowerarm", "wrist", "metacarpal", "finger")):
            part = 0 if stem.startswith("upperarm") else 1 if stem.startswith("lowerarm") else 2
            to_segment[b, ARM[side][part]] = 1
        else:
            to_segment[b, TRUNK] = 1
    out = particle_weights(template, layout) @ to_segment
    return out / out.sum(1, keepdims=True)


@dataclass(frozen=True)
class _Motion:
    """A rigid motion x -> turn x + shift, turn (T,4), shift (T,3)."""

    turn: Tensor
    shift: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        return quat_rotate(self.turn, points) + self.shift

    @staticmethod
    def about(turn: Tensor, source: Tensor, target: Tensor) -> _Motion:
        """The motion that turns and takes source (3,) to target (T,3)."""
        return _Motion(turn, target - quat_rotate(turn, source))


class StanceFrames:
    """An avatar that rests as its portrait stands. freedom (2,): of the left and the right arm, 0 still .. 1 as learnt.

    With the relaxed stance and full freedom it composes what `LocalFrames` does, on `device`.
    """

    def __init__(
        self,
        canonical: Canonical,
        layout: ParticleLayout,
        freedom: np.ndarray,
        device: torch.device | str = "cpu",
    ) -> None:
        template = load_template()
        n = self.n_base = canonical.n_base
        standing = to_stance(canonical, layout)
        splats = standing.splats()
        self.stance = replace(splats, quats=normalize(splats.quats, dim=-1))
        self.freedom = {side: float(f) for side, f in zip("LR", freedom, strict=True)}
        weights = segment_weights(template, layout)
        hands = {2: ARM["L"][2], 3: ARM["R"][2]}
        for code, segment in {1: HEAD, **hands}.items():  # a frame's own particles go with it alone
            weights[layout.frame == code] = np.eye(SEGMENTS)[segment]
        self.weights = float_tensor(weights)
        self.relaxed = float_tensor(canonical.means[:n])
        # how much of a particle's own motion within its segments is played
        limbs = {g: self.freedom[side] for side, parts in ARM.items() for g in parts}
        self.share = float_tensor(weights @ [limbs.get(g, 1.0) for g in range(SEGMENTS)])[:, None]
        # turns of bones from the relaxed stance to the portrait's, of segments and of particles
        transforms = carry(canonical.shape, canonical.stance, template)
        joints = [
            np.einsum("bij,bj->bi", t[:, :, :3], template.rest(canonical.shape)[1]) + t[:, :, 3]
            for t in transforms
        ]
        bone = template.bone_index
        names = {TRUNK: "spine02", HEAD: "head"} | {
            g: f"{stem}.{side}"
            for side, parts in ARM.items()
            for g, stem in zip(parts, ("upperarm01", "lowerarm01", "wrist"), strict=True)
        }
        turned = transforms[1][:, :, :3] @ transforms[0][:, :, :3].transpose(0, 2, 1)
        self.axes = {g: _quat(turned[bone[name]]) for g, name in names.items()}
        self.joint = {g: float_tensor(joints[0][bone[name]]) for g, name in names.items()}
        self.stance_joint = {g: float_tensor(joints[1][bone[name]]) for g, name in names.items()}
        self.turned = quat_mul(
            self.stance.quats[:n], quat_conj(normalize(float_tensor(canonical.quats[:n]), dim=-1))
        )
        self.carriers = self._carriers(layout, weights)
        self.world = torch.from_numpy(layout.frame == WORLD)
        self._anchor = torch.from_numpy(canonical.anchor[n:].astype(np.int64))
        self._move(device)

    def _move(self, device: torch.device | str) -> None:
        """Everything was made on the CPU."""
        for name, value in vars(self).items():
            if isinstance(value, (Tensor, Splats)):
                setattr(self, name, value.to(device))
            elif name in ("axes", "joint", "stance_joint", "carriers"):
                setattr(self, name, {g: tensor.to(device) for g, tensor in value.items()})

    def _carriers(self, layout: ParticleLayout, weights: np.ndarray) -> dict[int, Tensor]:
        world = layout.frame == WORLD
        own = {
            HEAD: layout.carriers["head"],
            ARM["L"][2]: layout.carriers["wrist_left"],
            ARM["R"][2]: layout.carriers["wrist_right"],
        }
        for g in range(SEGMENTS):
            if g not in own:
                rows = world & (weights[:, g] > CARRIES)
                if g == TRUNK:
                    rows &= self.relaxed[:, 2].numpy() > float(self.joint[HEAD][2]) - CHEST_M
                own[g] = np.flatnonzero(rows)
            if len(own[g]) < 3:
                raise ValueError(f"segment {g} needs at least 3 particles that carry it, found {len(own[g])}")
        return {g: torch.from_numpy(np.asarray(rows, np.int64)) for g, rows in own.items()}

    def compose(self, deformation: Deformation) -> Splats:
        """The posed avatar of every frame, as `LocalFrames.compose`, about the portrait's stance. No gradient through turns."""
        offset, turn = deformation.mean_offset, quat_from_rotvec(deformation.rotation)
        learnt = {g: self._segment(rows, offset) for g, rows in self.carriers.items()}
        played = self._played(learnt)
        # what a particle does beside its segments, in the segments' axes
        blend = self._blend(learnt)
        own = quat_rotate(quat_conj(blend), self.relaxed + offset - self._skin(learnt, self.relaxed))
        own = torch.where(self.world[:, None], own, offset)
        own_turn = torch.where(self.world[:, None], quat_mul(quat_conj(blend), turn), turn)
        # ... played in the axes of the portrait's stance
        own = quat_rotate(self.turned, own * self.share)
        own_turn = quat_from_rotvec(quat_rotate(self.turned, rotvec_from_quat(own_turn) * self.share))
        rest, blend = self.stance.means[: self.n_base], self._blend(played)
        means = self._skin(played, rest) + quat_rotate(blend, own)
        turned = quat_mul(blend, own_turn)
        if len(self._anchor):
            anchor_turn = turned[:, self._anchor]
            lever = self.stance.means[self.n_base :] - rest[self._anchor]
            means = torch.cat([means, means[:, self._anchor] + quat_rotate(anchor_turn, lever)], 1)
            turned = torch.cat([turned, anchor_turn], 1)
        colors = self.stance.colors
        if deformation.color is not None:
            shells = colors[self.n_base :].expand(len(offset), -1, -1)
            colors = torch.cat([colors[: self.n_base] + deformation.color, shells], 1)
        return replace(self.stance, means=means, quats=quat_mul(turned, self.stance.quats), colors=colors)

    def _segment(self, rows: Tensor, offset: Tensor) -> _Motion:
        rest = self.relaxed[rows]
        turn, centre, target = rigid_fit(rest, rest + offset[:, rows])
        return _Motion.about(turn, centre, target)

    def _played(self, learnt: dict[int, _Motion]) -> dict[int, _Motion]:
        """The segments' motions about the portrait's stance."""
        trunk, chest = learnt[TRUNK], self.axes[TRUNK]
        out = {}
        at, there = self.joint[TRUNK], self.stance_joint[TRUNK]
        out[TRUNK] = _Motion.about(
            _in_axes(trunk.turn, chest), there, there + quat_rotate(chest, trunk(at) - at)
        )
        # the head nods about its own axes, from where the portrait turned it
        face = self.axes[HEAD]
        relative = quat_mul(quat_conj(trunk.turn), learnt[HEAD].turn)
        out[HEAD] = self._child(out[TRUNK], trunk, learnt[HEAD], HEAD, _in_axes(relative, face), 1.0, face)
        for side, parts in ARM.items():
            free, above, axes = self.freedom[side], TRUNK, chest
            for g in parts:
                relative = quat_mul(quat_conj(learnt[above].turn), learnt[g].turn)
                angle = rotvec_from_quat(relative) * free
                if free < FREE_LIMIT:
                    size = angle.norm(dim=-1, keepdim=True).clamp_min(1e-9)
                    angle = angle / size * LARGEST_TURN * torch.tanh(size / LARGEST_TURN)
                relative = _in_axes(quat_from_rotvec(angle), axes)
                # the shoulder shrugs with the trunk; further joints hold together
                loose = 1.0 if above == TRUNK or free >= FREE_LIMIT else 0.0
                out[g] = self._child(out[above], learnt[above], learnt[g], g, relative, loose, axes)
                above, axes = g, self.axes[g]
        return out

    def _child(
        self,
        above: _Motion,
        learnt_above: _Motion,
        learnt: _Motion,
        g: int,
        relative: Tensor,
        loose: float,
        axes: Tensor,
    ) -> _Motion:
        """The segment g below `above`: turned by `relative` about its joint, which shifts by the gap between the fits."""
        at, there = self.joint[g], self.stance_joint[g]
        gap = quat_rotate(quat_conj(learnt_above.turn), learnt(at) - learnt_above.shift) - at
        place = there + loose * quat_rotate(axes, gap)
        target = quat_rotate(above.turn, place) + above.shift
        return _Motion.about(quat_mul(above.turn, relative), there, target)

    def _skin(self, motions: dict[int, _Motion], points: Tensor) -> Tensor:
        """Points (N,3) of the base particles, moved by their segments -> (T,N,3)."""
        turn = torch.stack([quat_to_matrix(motions[g].turn) for g in range(SEGMENTS)], 1)  # (T,G,3,3)
        shift = torch.stack([motions[g].shift for g in range(SEGMENTS)], 1)
        each = torch.einsum("ng,tgij->tnij", self.weights, turn)
        return (each @ points[:, :, None])[..., 0] + torch.einsum("ng,tgi->tni", self.weights, shift)

    def _blend(self, motions: dict[int, _Motion]) -> Tensor:
        """The particles' turns (T,N,4) by their segments."""
        turn = torch.stack([motions[g].turn for g in range(SEGMENTS)], 1)
        turn = torch.where((turn * turn[:, :1]).sum(-1, keepdim=True) < 0, -turn, turn)
        return normalize(torch.einsum("ng,tgi->tni", self.weights, turn), dim=-1)


def _in_axes(turn: Tensor, axes: Tensor) -> Tensor:
    """A turn (T,4), in axes that were turned by `axes` (4,)."""
    axes = axes.expand_as(turn)
    return quat_mul(quat_mul(axes, turn), quat_conj(axes))


def _quat(matrix: np.ndarray) -> Tensor:
    return float_tensor(Rotation.from_matrix(matrix).as_quat()[[3, 0, 1, 2]])
