"""The deformation dG in local frames: compose a posed avatar from it, and decompose a posed avatar into it.

Most particles of an avatar move almost rigidly with the head or with a wrist. Expressed in the head's or wrist's
own frame what is left (lips, lids, fingers) is small and means the same on every person; expressed in the world it
does not transfer. The frames need no pose parameters: each is recovered from the motion of its carriers,
world-frame particles that are rigid with it (skull, back of the wrist), by the best rigid fit [Horn 1987].

Frame ids: 0 world, 1 head, 2 left wrist, 3 right wrist. Metres, Z up, quaternions wxyz, rotations are rotation
vectors (radians). Shapes: T frames, N base particles, S shell particles, C carriers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
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
from avatar_core.particles.layout import FRAMES, ParticleLayout
from avatar_core.particles.splats import Splats, float_tensor

WORLD, HEAD, WRIST_LEFT, WRIST_RIGHT = FRAMES.values()


@dataclass(frozen=True)
class Deformation:
    """dG of a clip, base particles only, each in its particle's local frame. color: offsets, None where zero everywhere."""

    mean_offset: Tensor  # (T,N,3) m
    rotation: Tensor  # (T,N,3) rotation vectors
    color: Tensor | None = None  # (T,N,3)

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray]) -> Deformation:
        """From arrays of its names, such as a trajectory store's; others are ignored."""
        color = arrays.get("color")
        return Deformation(
            float_tensor(arrays["mean_offset"]),
            float_tensor(arrays["rotation"]),
            None if color is None else float_tensor(color),
        )

    def to(self, device: torch.device | str) -> Deformation:
        color = None if self.color is None else self.color.to(device)
        return Deformation(self.mean_offset.to(device), self.rotation.to(device), color)

    def __len__(self) -> int:
        return len(self.mean_offset)

    def __getitem__(self, frames: slice) -> Deformation:
        """The same deformation restricted to some frames."""
        color = None if self.color is None else self.color[frames]
        return Deformation(self.mean_offset[frames], self.rotation[frames], color)


class LocalFrames:
    """The local frames of one identity: make them once, use them for every window of frames, on `device`.

    ValueError where canonical and layout do not belong together.
    """

    def __init__(
        self, canonical: Canonical, layout: ParticleLayout, device: torch.device | str = "cpu"
    ) -> None:
        n = canonical.n_base
        if len(layout.frame) != n:
            raise ValueError(f"layout has {len(layout.frame)} particles, the canonical avatar has {n}")
        self.canonical, self.layout, self.n_base = canonical, layout, n
        rest = canonical.splats().to(device)
        self.rest = replace(rest, quats=normalize(rest.quats, dim=-1))  # (N+S,...)
        members = [torch.from_numpy(np.flatnonzero(layout.frame == f)).to(device) for f in FRAMES.values()]
        self._world = members[WORLD]
        # Carriers (C,) and members of the frames that have any.
        self._moving: list[tuple[Tensor, Tensor]] = []
        for name in ("head", "wrist_left", "wrist_right"):
            index = np.asarray(layout.carriers.get(name, ()), np.int64)
            own = members[FRAMES[name]]
            if len(own) and (len(index) < 3 or (layout.frame[index] != WORLD).any()):
                raise ValueError(f"frame {name} needs at least 3 carriers, all of them world-frame particles")
            if len(own):
                self._moving.append((torch.from_numpy(index).to(device), own))
        self._order = torch.argsort(torch.cat(members))  # (N,) from members one after the other to particles
        self._anchor = torch.from_numpy(canonical.anchor[n:].astype(np.int64)).to(device)  # (S,)
        self.knn = torch.from_numpy(canonical.knn[:n].astype(np.int64)).clamp_max(n - 1).to(device)  # (N,K)

    def compose(self, deformation: Deformation) -> Splats:
        """The posed avatar of every frame: means (T,N+S,3), quats (T,N+S,4), colours (T,N+S,3) where they change.

        Shell particles move rigidly with their anchor. Differentiable in the deformation. Inverse: `decompose`.
        Locked by test_no_deformation_is_the_canonical_avatar, test_decompose_inverts_compose.
        """
        offset, turn = deformation.mean_offset, quat_from_rotvec(deformation.rotation)
        rest, world = self.rest.means[: self.n_base], self._world
        means, turns = [rest[world] + offset[:, world]], [turn[:, world]]
        for carriers, members in self._moving:
            quat, centre, centre_t = rigid_fit(rest[carriers], rest[carriers] + offset[:, carriers])
            local = rest[members] - centre + offset[:, members]
            means.append(local @ quat_to_matrix(quat).transpose(-1, -2) + centre_t[:, None])
            turns.append(quat_mul(quat[:, None], turn[:, members]))
        posed, turned = torch.cat(means, 1)[:, self._order], torch.cat(turns, 1)[:, self._order]
        if len(self._anchor):
            anchor_turn = turned[:, self._anchor]
            lever = self.rest.means[self.n_base :] - rest[self._anchor]
            posed = torch.cat([posed, posed[:, self._anchor] + quat_rotate(anchor_turn, lever)], 1)
            turned = torch.cat([turned, anchor_turn], 1)
        return replace(
            self.rest,
            means=posed,
            quats=quat_mul(turned, self.rest.quats),
            colors=self._colors(deformation.color),
        )

    def decompose(self, means: Tensor, quats: Tensor) -> Deformation:
        """Posed base particles, means (T,N,3) and quats (T,N,4), -> mean_offset and rotation. Inverse of `compose`.

        Locked by test_decompose_inverts_compose.
        """
        rest = self.rest.means[: self.n_base]
        turn = quat_mul(normalize(quats, dim=-1), quat_conj(self.rest.quats[: self.n_base]))
        offsets, turns = [means[:, self._world] - rest[self._world]], [turn[:, self._world]]
        for carriers, members in self._moving:
            quat, centre, centre_t = rigid_fit(rest[carriers], means[:, carriers])
            local = (means[:, members] - centre_t[:, None]) @ quat_to_matrix(quat)
            offsets.append(local - (rest[members] - centre))
            turns.append(quat_mul(quat_conj(quat)[:, None], turn[:, members]))
        offset, turn = torch.cat(offsets, 1)[:, self._order], torch.cat(turns, 1)[:, self._order]
        return Deformation(offset, rotvec_from_quat(turn))

    def _colors(self, change: Tensor | None) -> Tensor:
        """(N+S,3), or (T,N+S,3) where the base particles' change (T,N,3)."""
        rest = self.rest.colors
        if change is None:
            return rest
        shells = rest[self.n_base :].expand(len(change), -1, -1)
        return torch.cat([rest[: self.n_base] + change, shells], 1)
