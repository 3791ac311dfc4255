"""Reduced skeleton of the fit: a chosen few of the rig's bones, each carrying all that hangs below it.

A bone's rotation vector is a delta in world axes at the canonical pose; children follow. Bones that a framing cannot
show are left out, their skin goes with the nearest ancestor that is kept.

Shapes: T frames, R reduced bones, B bones of the rig, N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from avatar_core.geometry.rotations import quat_from_rotvec, quat_mul, quat_to_matrix

_TRUNK = ("root", "spine04", "spine02", "neck01", "head", "clavicle.L", "clavicle.R")
_ARM = ("upperarm01", "upperarm02", "lowerarm01", "lowerarm02", "wrist")
_FINGERS = tuple(f"finger{f}-{k}" for f in range(1, 6) for k in range(1, 4))
_LEG = ("upperleg01", "lowerleg01", "foot")
_UPPER = _TRUNK + tuple(f"{bone}.{side}" for side in "LR" for bone in _ARM + _FINGERS)
FRAMING_BONES: dict[str, tuple[str, ...]] = {
    "face": ("root", "spine02", "neck01", "head", "clavicle.L", "clavicle.R"),
    "waist_up": _UPPER,
    "full_body": _UPPER + tuple(f"{bone}.{side}" for side in "LR" for bone in _LEG),
}


@dataclass(frozen=True)
class Skeleton:
    """names [R]; parents (R,) -1 for the root, always before the child; joints (R,3) m at the canonical pose;
    reduce (B,) the reduced bone that each bone of the rig belongs to."""

    names: tuple[str, ...]
    parents: np.ndarray
    joints: Tensor
    reduce: np.ndarray
    chain: tuple[tuple[Tensor, Tensor], ...]  # bones by depth, and their parents' places in the level above
    back: Tensor  # (R,) from bones by depth to bones

    def to(self, device: torch.device | str) -> Skeleton:
        chain = tuple((bones.to(device), up.to(device)) for bones, up in self.chain)
        return replace(self, joints=self.joints.to(device), chain=chain, back=self.back.to(device))

    def index(self, *names: str) -> list[int]:
        """Positions of those of the named bones that this skeleton has."""
        return [self.names.index(name) for name in names if name in self.names]


def make_skeleton(
    bone_names: Sequence[str], bone_parents: Sequence[int] | np.ndarray, joints: np.ndarray, framing: str
) -> Skeleton:
    """Skeleton of a framing from the rig's names [B], parents (B,) and canonical joint places (B,3)."""
    if framing not in FRAMING_BONES:
        raise ValueError(f"framing: expected one of {', '.join(FRAMING_BONES)}, found {framing!r}")
    bone_names, wanted = list(bone_names), set(FRAMING_BONES[framing])
    missing = sorted(wanted - set(bone_names))
    assert not missing, f"the rig lacks {missing}"
    kept = [b for b, name in enumerate(bone_names) if name in wanted]
    position = {b: i for i, b in enumerate(kept)}

    def owner(bone: int) -> int:
        while bone not in position:
            bone = int(bone_parents[bone])
            if bone < 0:
                return 0
        return position[bone]

    reduce = np.array([owner(b) for b in range(len(bone_names))])
    parents = np.array([-1 if bone_parents[b] < 0 else owner(int(bone_parents[b])) for b in kept])
    assert all(parent < i for i, parent in enumerate(parents)), "parents come first"
    return Skeleton(
        tuple(bone_names[b] for b in kept),
        parents,
        torch.as_tensor(joints[kept], dtype=torch.float32, device="cpu"),
        reduce,
        *_chain(parents),
    )


def _chain(parents: np.ndarray) -> tuple[tuple[tuple[Tensor, Tensor], ...], Tensor]:
    """`Skeleton.chain` and `Skeleton.back`, on the CPU."""
    depth = np.zeros(len(parents), np.int64)
    for bone, parent in enumerate(parents):
        depth[bone] = 0 if parent < 0 else depth[parent] + 1
    levels = [np.flatnonzero(depth == d) for d in range(depth.max() + 1)]
    ups = [levels[0]] + [np.searchsorted(a, parents[b]) for a, b in zip(levels, levels[1:], strict=False)]
    chain = tuple((torch.from_numpy(b), torch.from_numpy(up)) for b, up in zip(levels, ups, strict=True))
    return chain, torch.from_numpy(np.argsort(np.concatenate(levels)))


def reduce_weights(weights: csr_matrix, skeleton: Skeleton) -> np.ndarray:
    """Skinning weights (N,B) on the rig -> dense (N,R) float32 on the skeleton, rows summing to 1."""
    r = len(skeleton.names)
    fold = csr_matrix((np.ones(len(skeleton.reduce)), (np.arange(len(skeleton.reduce)), skeleton.reduce)))
    fold.resize((len(skeleton.reduce), r))
    out = np.asarray((weights @ fold).toarray(), np.float32)  # type: ignore[union-attr]
    return out / np.maximum(out.sum(1, keepdims=True), 1e-9)


def forward_kinematics(
    skeleton: Skeleton, rotvecs: Tensor, translation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """rotvecs (T,R,3), translation (T,3) m -> rotation (T,R,3,3), offset (T,R,3), quats (T,R,4).

    A point x of bone r at the canonical pose goes to rotation x + offset. Differentiable.
    """
    local_quat = quat_from_rotvec(rotvecs)
    local = quat_to_matrix(local_quat)
    lever = skeleton.joints - (local @ skeleton.joints[..., None])[..., 0]
    rotation, offset, quats = [], [], []
    for depth, (bones, up) in enumerate(skeleton.chain):
        if depth == 0:
            rotation.append(local[:, bones])
            offset.append(lever[:, bones] + translation[:, None])
            quats.append(local_quat[:, bones])
            continue
        above = rotation[-1][:, up]
        rotation.append(above @ local[:, bones])
        offset.append((above @ lever[:, bones][..., None])[..., 0] + offset[-1][:, up])
        quats.append(quat_mul(quats[-1][:, up], local_quat[:, bones]))
    back = skeleton.back
    return torch.cat(rotation, 1)[:, back], torch.cat(offset, 1)[:, back], torch.cat(quats, 1)[:, back]
