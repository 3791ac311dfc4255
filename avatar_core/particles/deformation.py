"""Local frames of the deformation dG: compose a posed avatar from it, and decompose a posed avatar into it.

Most particles of an avatar move almost rigidly with the head or with a wrist. Expressed in the head's or wrist's
own frame what is left (lips, lids, fingers) is small and means the same on every person; expressed in the world it
does not transfer. The frames need no pose parameters: each is recovered from the motion of its carriers,
world-frame particles that are rigid with it (skull, back of the wrist), by the best rigid fit [Horn 1987].

Frame ids: 0 world, 1 head, 2 left wrist, 3 right wrist. Metres, Z up, quaternions wxyz, rotations are rotation
vectors (radians). Shapes: T frames, N base particles, S shell particles, C carriers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatar_core.geometry.rotations import (
    quat_conj,
    quat_from_rotvec,
    quat_mul,
    quat_rotate,
    quat_to_matrix,
    rigid_fit,
    rotvec_from_quat,
)

WORLD, HEAD, WRIST_LEFT, WRIST_RIGHT = 0, 1, 2, 3


@dataclass(frozen=True)
class Deformation:
    """dG of a clip, base particles only, each in its particle's local frame. numpy arrays or torch tensors.

    mean_offset (T,N,3) m; rotation (T,N,3) rotation vectors; log_scale (T,N,3), logit_opacity (T,N) and
    color (T,N,3) are offsets, None where they are zero everywhere.
    """

    mean_offset: Any
    rotation: Any
    log_scale: Any = None
    logit_opacity: Any = None
    color: Any = None

    def __len__(self) -> int:
        return int(self.mean_offset.shape[0])

    def _map(self, function) -> Deformation:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: None if v is None else function(v) for k, v in values.items()})

    def __getitem__(self, frames) -> Deformation:
        """The same deformation restricted to some frames (a slice or an index array)."""
        return self._map(lambda value: value[frames])

    def numpy(self) -> Deformation:
        return self._map(lambda v: v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v))

    def torch(self) -> Deformation:
        return self._map(_tensor)


@dataclass(frozen=True)
class Rig:
    """What compose and decompose need of one identity, as tensors: make it once, reuse it for every window."""

    means: Tensor  # (N+S,3)
    quats: Tensor  # (N+S,4)
    log_scales: Tensor
    logit_opacities: Tensor
    colors: Tensor
    n_base: int
    members: tuple[Tensor, ...]  # particle indices of frames 0..3
    order: Tensor  # (N,) takes the concatenation of the members back to particle order
    carriers: tuple[Tensor | None, ...]  # of frames 0..3; None where the frame has no members
    shell_anchor: Tensor  # (S,)


def make_rig(canonical, layout, dtype: torch.dtype = torch.float32) -> Rig:
    """Index tables and tensors of `canonical` (Canonical) under `layout` (ParticleLayout)."""
    n_base = int(canonical.n_base)
    frame = np.asarray(layout.frame)[:n_base]
    if frame.shape[0] != n_base:
        raise ValueError(f"layout has {frame.shape[0]} particles, the canonical avatar has {n_base}")
    members = tuple(torch.from_numpy(np.flatnonzero(frame == f)) for f in range(4))
    carriers: list[Tensor | None] = [None]
    for f in (HEAD, WRIST_LEFT, WRIST_RIGHT):
        index = _carriers(layout.carriers, f)
        if len(members[f]) and (len(index) < 3 or (frame[index] != WORLD).any()):
            raise ValueError(f"frame {f} needs at least 3 carriers, all of them world-frame particles")
        carriers.append(torch.from_numpy(index) if len(members[f]) else None)
    return Rig(
        means=_tensor(canonical.means, dtype),
        quats=torch.nn.functional.normalize(_tensor(canonical.quats, dtype), dim=-1),
        log_scales=_tensor(canonical.log_scales, dtype),
        logit_opacities=_tensor(canonical.logit_opacities, dtype),
        colors=_tensor(canonical.colors, dtype),
        n_base=n_base,
        members=members,
        order=torch.argsort(torch.cat(members)),
        carriers=tuple(carriers),
        shell_anchor=torch.from_numpy(np.asarray(canonical.anchor)[n_base:].astype(np.int64)),
    )


def compose(
    canonical, layout, deformation: Deformation, rig: Rig | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Posed avatar of every frame: means (T,N+S,3), quats (T,N+S,4), log_scales, logit_opacities, colors.

    The last three keep their canonical shape (N+S,...) where the deformation does not change them and have a leading
    T where it does. Shell particles move rigidly with their anchor. Differentiable in the deformation.
    """
    rig = rig or make_rig(canonical, layout)
    offset = _tensor(deformation.mean_offset, rig.means.dtype)
    turn = quat_from_rotvec(_tensor(deformation.rotation, rig.means.dtype))
    rest = rig.means[: rig.n_base]
    means, turns = [rest[rig.members[0]] + offset[:, rig.members[0]]], [turn[:, rig.members[0]]]
    for frame in (HEAD, WRIST_LEFT, WRIST_RIGHT):
        carriers, members = rig.carriers[frame], rig.members[frame]
        if carriers is None:
            continue
        quat, centre, centre_t = rigid_fit(rest[carriers], rest[carriers] + offset[:, carriers])
        local = rest[members] - centre + offset[:, members]
        means.append(local @ quat_to_matrix(quat).transpose(-1, -2) + centre_t[:, None])
        turns.append(quat_mul(quat[:, None], turn[:, members]))
    posed, turned = torch.cat(means, 1)[:, rig.order], torch.cat(turns, 1)[:, rig.order]
    if len(rig.shell_anchor):
        anchor_turn = turned[:, rig.shell_anchor]
        lever = rig.means[rig.n_base :] - rest[rig.shell_anchor]
        posed = torch.cat([posed, posed[:, rig.shell_anchor] + quat_rotate(anchor_turn, lever)], 1)
        turned = torch.cat([turned, anchor_turn], 1)
    return (
        posed,
        quat_mul(turned, rig.quats),
        _add_base(rig.log_scales, deformation.log_scale, rig.n_base),
        _add_base(rig.logit_opacities, deformation.logit_opacity, rig.n_base),
        _add_base(rig.colors, deformation.color, rig.n_base),
    )


def decompose(canonical, layout, means, quats, rig: Rig | None = None) -> Deformation:
    """Inverse of compose for the base particles: posed means (T,N,3) and quats (T,N,4) -> mean_offset, rotation."""
    rig = rig or make_rig(canonical, layout)
    means, quats = _tensor(means, rig.means.dtype), _tensor(quats, rig.means.dtype)
    rest, rest_inverse = rig.means[: rig.n_base], quat_conj(rig.quats[: rig.n_base])
    turn = quat_mul(torch.nn.functional.normalize(quats[:, : rig.n_base], dim=-1), rest_inverse)
    world = rig.members[WORLD]
    offsets, turns = [means[:, world] - rest[world]], [turn[:, world]]
    for frame in (HEAD, WRIST_LEFT, WRIST_RIGHT):
        carriers, members = rig.carriers[frame], rig.members[frame]
        if carriers is None:
            continue
        quat, centre, centre_t = rigid_fit(rest[carriers], means[:, carriers])
        local = (means[:, members] - centre_t[:, None]) @ quat_to_matrix(quat)
        offsets.append(local - (rest[members] - centre))
        turns.append(quat_mul(quat_conj(quat)[:, None], turn[:, members]))
    offset, turn = torch.cat(offsets, 1)[:, rig.order], torch.cat(turns, 1)[:, rig.order]
    return Deformation(offset, rotvec_from_quat(turn))


def _carriers(carriers: Mapping, frame: int) -> np.ndarray:
    names = {HEAD: "head", WRIST_LEFT: "wrist_left", WRIST_RIGHT: "wrist_right"}
    found = carriers.get(frame, carriers.get(names[frame]))
    return np.zeros(0, np.int64) if found is None else np.asarray(found).astype(np.int64)


def _add_base(rest: Tensor, change, n_base: int) -> Tensor:
    if change is None:
        return rest
    change = _tensor(change, rest.dtype)
    base = rest[:n_base] + change
    shells = rest[n_base:].expand(len(change), *rest[n_base:].shape)
    return torch.cat([base, shells], 1)


def _tensor(value, dtype: torch.dtype = torch.float32) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(dtype)
    return torch.from_numpy(np.ascontiguousarray(value)).to(dtype)
