"""What the deformable fit moves: a canonical avatar bound to the template's bones, face actions and control nodes.

A frame is x = skin(X + actions(w) + nodes(shift, turn)): face actions and node corrections act at the canonical pose, hence
in the head's or hand's own frame, and linear blend skinning by a reduced skeleton carries the result. The keypoints that
detectors see are bound in the same way, as points behind the particles. Bones are posed in the fit
only; its result is the particles' motion.

Shapes: T frames, N base particles, S shell particles, M keypoints, P = N + M points, R bones, K nodes, A = 52 actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from avatar_core.fit.blend import SparseBlend
from avatar_core.fit.nodes import NodeGraph, make_nodes
from avatar_core.fit.skeleton import Skeleton, forward_kinematics, make_skeleton, reduce_weights
from avatar_core.geometry.rotations import quat_from_rotvec, quat_mul, quat_rotate
from avatar_core.particles.canonical import Canonical
from avatar_core.particles.layout import ParticleLayout
from avatar_core.particles.splats import Splats
from avatar_core.template.landmarks import KEYPOINT_BONES, KEYPOINT_VERTICES, KEYPOINTS
from avatar_core.template.mesh import Template
from avatar_core.template.pose import bone_transforms, relaxed_rotvecs, skin


@dataclass(frozen=True)
class FitRig:
    """Tensors of one person under one framing. Points are the N base particles, then the M keypoints."""

    canonical: Canonical
    skeleton: Skeleton
    rest: Tensor  # (3,P) canonical places
    skin: Tensor  # (R,P) blend weights of the bones
    actions: Tensor  # (A,3,P) displacement per unit of an action
    turns: Tensor  # (A,3,N) rotation vector per unit of an action
    blend: SparseBlend  # (P,K) blend weights of the nodes
    nodes: NodeGraph
    node_rest: Tensor  # (K,3)
    node_tight: Tensor  # (K,) 1, more at the lips: how tightly corrections are held
    node_head: Tensor  # (K,) share of the head in what follows a node, seen or not
    edges: Tensor  # (E,2)
    edge_weight: Tensor  # (E,)
    quats: Tensor  # (N,4)
    shell_anchor: Tensor  # (S,)
    shell_lever: Tensor  # (S,3) from the anchor, canonical pose
    scales: Tensor  # (N+S,3)
    opacities: Tensor  # (N+S,)
    colors: Tensor  # (N+S,3)
    shell_quats: Tensor  # (S,4)
    stature: float
    action_names: tuple[str, ...]

    @property
    def n_base(self) -> int:
        return len(self.quats)

    def to(self, device: torch.device | str) -> FitRig:
        moved = {k: v for k, v in vars(self).items() if isinstance(v, (Tensor, Skeleton, SparseBlend))}
        return replace(self, **{name: value.to(device) for name, value in moved.items()})


def make_rig(
    canonical: Canonical,
    layout: ParticleLayout,
    template: Template,
    framing: str,
    nodes: NodeGraph | None = None,
) -> FitRig:
    """Bind an avatar to the template; `nodes` (the same for everybody) may be shared between rigs."""
    nodes = nodes or make_nodes(template, layout)
    n = int(canonical.n_base)
    vertices, joints = canonical_surface(canonical, template)
    skeleton = make_skeleton(template.bone_names, template.bone_parents, joints, framing)

    corners, share = np.asarray(layout.triangles), np.asarray(layout.barycentric, np.float64)
    v, b = len(template.vertices), len(template.bone_names)
    pick = _rows(corners, share, v)  # (N,V)
    point_pick, point_rest, point_bones = _keypoint_rows(template, vertices, joints)
    index, weight = np.asarray(template.weights_index), np.asarray(template.weights, np.float64)
    vertex_weights = _rows(index, weight, b)  # (V,B)
    bone_skin = np.concatenate(
        [
            reduce_weights(csr_matrix(pick @ vertex_weights), skeleton),
            reduce_weights(csr_matrix(point_pick @ vertex_weights + point_bones), skeleton),
        ]
    )
    deltas = np.zeros((len(template.face_actions), v, 3), np.float32)
    deltas[:, np.asarray(template.face_action_vertices)] = template.face_actions
    actions = np.stack([np.concatenate([pick @ d, point_pick @ d]) for d in deltas])  # (A,P,3)
    rest = np.concatenate([np.asarray(canonical.means)[:n], point_rest])

    # A keypoint follows the nodes of the particles on its own triangles, so that lips do not mix.
    blend = nodes.matrix()
    carrier = _carrier(point_pick, pick, rest[:n], point_rest)
    blend = csr_matrix(vstack([blend, blend[carrier]]))
    turns = action_turns(actions[:, :n], rest[:n], np.asarray(canonical.knn)[:n])

    mouth = rest[np.concatenate([layout.lips_upper, layout.lips_lower])].mean(0)
    node_rest = rest[nodes.particles]
    tight = 1 + 39 * np.exp(-((node_rest - mouth) ** 2 / np.array([0.03, 0.03, 0.018]) ** 2).sum(1) / 2)
    anchor = np.asarray(canonical.anchor)[n:].astype(np.int64)
    quats = _unit(canonical.quats)
    return FitRig(
        canonical=canonical,
        skeleton=skeleton,
        rest=_f32(rest.T),
        skin=_f32(bone_skin.T),
        actions=_f32(actions.transpose(0, 2, 1)),
        turns=_f32(turns.transpose(0, 2, 1)),
        blend=SparseBlend(blend),
        nodes=nodes,
        node_rest=_f32(node_rest),
        node_tight=_f32(tight),
        node_head=_f32(_head_share(bone_skin[:, skeleton.index("head")[0]], blend)),
        edges=torch.from_numpy(nodes.edges),
        edge_weight=torch.from_numpy(nodes.edge_weight),
        quats=quats[:n],
        shell_anchor=torch.from_numpy(anchor),
        shell_lever=_f32(np.asarray(canonical.means)[n:] - np.asarray(canonical.means)[anchor]),
        scales=_f32(np.exp(canonical.log_scales)),
        opacities=torch.sigmoid(_f32(canonical.logit_opacities)),
        colors=_f32(canonical.colors),
        shell_quats=quats[n:],
        stature=float(canonical.stature),
        action_names=tuple(template.face_action_names),
    )


def subset(rig: FitRig, keep: np.ndarray) -> FitRig:
    """The rig of the base particles `keep` (n,) alone, with the shells on them and all keypoints: what a view can see."""
    n = rig.n_base
    device = rig.rest.device
    points = np.concatenate([keep, np.arange(n, rig.rest.shape[1])])
    place_of = np.full(n, -1)
    place_of[keep] = np.arange(len(keep))
    anchor = rig.shell_anchor.cpu().numpy()
    shells = np.flatnonzero(place_of[anchor] >= 0)
    splat = np.concatenate([keep, n + shells])
    return replace(
        rig,
        rest=rig.rest[:, points].contiguous(),
        skin=rig.skin[:, points].contiguous(),
        actions=rig.actions[:, :, points].contiguous(),
        turns=rig.turns[:, :, keep].contiguous(),
        blend=rig.blend.rows(points),
        quats=rig.quats[keep],
        shell_anchor=torch.from_numpy(place_of[anchor[shells]]).to(device),
        shell_lever=rig.shell_lever[shells],
        shell_quats=rig.shell_quats[shells],
        scales=rig.scales[splat],
        opacities=rig.opacities[splat],
        colors=rig.colors[splat],
    )


def bones(rig: FitRig, rotvecs: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
    """rotvecs (T,R,3), translation (T,3) -> transforms (T,R,12): rotation by columns, then offset; quats (T,R,4)."""
    rotation, offset, quats = forward_kinematics(rig.skeleton, rotvecs, translation)
    return torch.cat([rotation.transpose(-1, -2).flatten(2), offset], -1), quats


def place(
    rig: FitRig,
    transforms: Tensor,
    weights: Tensor,
    shift: Tensor | None = None,
    turn: Tensor | None = None,
    points: slice = slice(None),
) -> Tensor:
    """Points (T,P,3) in the world, differentiable. transforms (T,R,12) from `bones`; weights (T,A); node motion (T,K,3)
    at the canonical pose; `points`: which of the P."""
    t = len(weights)
    rest, actions = rig.rest[:, points], rig.actions[:, :, points]
    x = torch.addmm(rest.reshape(1, -1), weights, actions.flatten(1)).view(t, 3, -1)
    if shift is not None and turn is not None:
        # x + shift + turn x (x - node), linear: corrections are small.
        fixed = shift - torch.linalg.cross(turn, rig.node_rest.expand_as(turn))
        mixed = rig.blend(torch.cat([fixed, turn], -1).transpose(0, 1).flatten(1))[points]
        a, w = mixed.T.contiguous().view(t, 6, -1).split(3, 1)
        x = x + a + _cross(w, rest)
    m = (transforms.transpose(1, 2).reshape(t * 12, -1) @ rig.skin[:, points]).view(t, 4, 3, -1)
    # Parts by unbind: the gradient of a part that was sliced is a whole of zeros.
    (m0, m1, m2, m3), (x0, x1, x2) = m.unbind(1), x.split(1, 1)
    return m3.addcmul(m0, x0).addcmul(m1, x1).addcmul(m2, x2).transpose(1, 2)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """a x b, of (T,3,P) and (3,P): the axes are rows, which `torch.linalg.cross` reads with a stride."""
    (x, y, z), (u, v, w) = a.unbind(1), b
    return torch.stack([y * w - z * v, z * u - x * w, x * v - y * u], 1)


@torch.no_grad()
def orient(rig: FitRig, bone_quats: Tensor, weights: Tensor, turn: Tensor | None = None) -> Tensor:
    """Turn (T,N,4) of every base particle against its canonical orientation. No gradient: the picture hardly feels it."""
    t, n = len(weights), rig.n_base
    mixed = (bone_quats.transpose(1, 2).reshape(t * 4, -1) @ rig.skin[:, :n]).view(t, 4, n)
    mixed = mixed * mixed.square().sum(1, keepdim=True).rsqrt()
    local = (weights @ rig.turns.flatten(1)).view(t, 3, n)
    if turn is not None:
        local = local + rig.blend(turn.transpose(0, 1).flatten(1))[:n].T.reshape(t, 3, n)
    return quat_mul(mixed.transpose(1, 2), quat_from_rotvec(local.transpose(1, 2)))


@dataclass(frozen=True)
class Ride:
    """How splats go with base particles: quats (T,N+S,4) of all; lever (T,S,3) m from the anchors to the shells."""

    quats: Tensor
    lever: Tensor


@torch.no_grad()
def ride(rig: FitRig, turned: Tensor) -> Ride:
    """From the turns (T,N,4) of the base particles."""
    quats, anchor_turn = quat_mul(turned, rig.quats), turned[:, rig.shell_anchor]
    shells = quat_mul(anchor_turn, rig.shell_quats)
    return Ride(torch.cat([quats, shells], 1), quat_rotate(anchor_turn, rig.shell_lever))


def splats(rig: FitRig, base: Tensor, how: Ride, colors: Tensor) -> Splats:
    """Base particles (T,N,3), their turns, colours (T,N+S,3) -> all splats: shells ride on their anchors."""
    means = torch.cat([base, base[:, rig.shell_anchor] + how.lever], 1)
    return Splats(means, how.quats, rig.scales, rig.opacities, colors)


def canonical_surface(canonical: Canonical, template: Template) -> tuple[np.ndarray, np.ndarray]:
    """Template vertices (V,3) and bone heads (B,3) of a Canonical's person in the canonical (relaxed) pose."""
    vertices, heads = template.rest(canonical.shape)
    transforms = bone_transforms(heads, relaxed_rotvecs(template), None, template)
    joints = np.einsum("bij,bj->bi", transforms[:, :, :3], heads) + transforms[:, :, 3]
    return skin(vertices, transforms, template.weights_index, template.weights), joints


def action_turns(actions: np.ndarray, rest: np.ndarray, knn: np.ndarray) -> np.ndarray:
    """Rotation vectors (A,N,3) of the surface per unit of each action: least squares over neighbours, small angles.

    Minimises sum_j |d_j - d_i - omega x (x_j - x_i)|^2 over the neighbours j of particle i; actions (A,N,3), knn (N,k).
    """
    out = np.zeros_like(actions)
    knn = np.minimum(knn, len(rest) - 1)
    moved = np.flatnonzero(np.abs(actions).max((0, 2)) > 1e-5)
    lever = rest[knn[moved]] - rest[moved, None]  # (m,k,3)
    square = (lever**2).sum((1, 2))
    normal = square[:, None, None] * np.eye(3) - np.einsum("mki,mkj->mij", lever, lever)
    normal += (0.05 * square[:, None, None] + 1e-12) * np.eye(3)
    inverse = np.linalg.inv(normal)
    for a, d in enumerate(actions):
        change = d[knn[moved]] - d[moved, None]
        out[a, moved] = np.einsum("mij,mj->mi", inverse, np.cross(lever, change).sum(1))
    return out


def _keypoint_rows(
    template: Template, vertices: np.ndarray, joints: np.ndarray
) -> tuple[csr_matrix, np.ndarray, csr_matrix]:
    """Vertex mix (M,V), canonical places (M,3) and bone membership (M,B) of the keypoints."""
    base_to_vertex = template.vertex_of_base
    m, names = len(KEYPOINTS), list(template.bone_names)
    rows, columns, shares = [], [], []
    for k, ids in KEYPOINT_VERTICES:
        rows += [k] * len(ids)
        columns += [int(base_to_vertex[i]) for i in ids]
        shares += [1 / len(ids)] * len(ids)
    assert min(columns) >= 0, "the template lacks a landmark's vertex"
    pick = csr_matrix((shares, (rows, columns)), shape=(m, len(vertices)))
    rest = pick @ vertices
    bone_rows, bone_columns = [k for k, _ in KEYPOINT_BONES], [names.index(b) for _, b in KEYPOINT_BONES]
    rest[bone_rows] = joints[bone_columns]
    ones = np.ones(len(bone_rows))
    return pick, rest, csr_matrix((ones, (bone_rows, bone_columns)), shape=(m, len(names)))


def _head_share(head: np.ndarray, blend: csr_matrix) -> np.ndarray:
    """(K,) mean weight of the head bone (P,) over what follows a node."""
    return (blend.T @ head) / np.maximum(np.asarray(blend.sum(0)).ravel(), 1e-6)


def _carrier(
    point_pick: csr_matrix, pick: csr_matrix, particles: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Particle (M,) whose node weights each keypoint takes: the nearest on triangles it shares, else the nearest."""
    shared = (point_pick @ pick.T).tocsr()
    out = np.zeros(len(points), np.int64)
    for k in range(len(points)):
        candidates = shared.indices[shared.indptr[k] : shared.indptr[k + 1]]
        candidates = np.sort(candidates) if len(candidates) else np.arange(len(particles))
        out[k] = candidates[np.linalg.norm(particles[candidates] - points[k], axis=1).argmin()]
    return out


def _rows(index: np.ndarray, weight: np.ndarray, columns: int) -> csr_matrix:
    rows = np.repeat(np.arange(len(index)), index.shape[1])
    return csr_matrix((weight.ravel(), (rows, index.ravel())), shape=(len(index), columns))


def _unit(quats: np.ndarray) -> Tensor:
    return torch.nn.functional.normalize(_f32(quats), dim=-1)


def _f32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
