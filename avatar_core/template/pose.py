"""Posing the template: forward kinematics and linear blend skinning, in numpy and as a batched torch twin.

Pose semantics (Anny's): per bone a rotation vector of a delta rotation in world axes at the rest pose,
T_b = T_parent . translate(h_b) . R_b . translate(-h_b) with h_b the bone's head at rest; the root also takes `translation`.

Legend: T frames, B bones, V vertices, A face actions, S shape components, K keypoints, n chosen vertices.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from avatar_core.geometry.rotations import matrix_from_rotvec
from avatar_core.template.landmarks import KEYPOINT_BONES, KEYPOINT_VERTICES, KEYPOINTS
from avatar_core.template.mesh import Template, load_template


def bone_transforms(
    heads: np.ndarray,
    rotvecs: np.ndarray,
    translation: np.ndarray | None = None,
    template: Template | None = None,
) -> np.ndarray:
    """Rest -> posed transforms (B, 3, 4) of bone heads (B, 3) at rest under rotvecs (B, 3)."""
    template = template or load_template()
    with torch.no_grad():
        at, turns = (torch.from_numpy(np.array(a, np.float64)) for a in (heads, rotvecs))
        move = None if translation is None else torch.from_numpy(np.array(translation, np.float64))[None]
        out = _chain(at, turns[None], move, _levels(template))
    return out[0].numpy()


def pose_template(
    template: Template,
    shape: np.ndarray | None,
    rotvecs: np.ndarray | None,
    translation: np.ndarray | None = None,
    face_weights: np.ndarray | None = None,
) -> np.ndarray:
    """Posed template vertices (V, 3) of one frame. shape (<=S,), rotvecs (B, 3), translation (3,), face_weights (A,)."""
    vertices, heads = template.rest(shape)
    if face_weights is not None:
        vertices = template.add_actions(vertices, face_weights)
    if rotvecs is None:
        return vertices + (0 if translation is None else np.asarray(translation, np.float32))
    transforms = bone_transforms(heads, rotvecs, translation, template)
    return skin(vertices, transforms, template.weights_index, template.weights)


def skin(points: np.ndarray, transforms: np.ndarray, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Linear blend skinning: points (n, 3), transforms (B, 3, 4), index and weights (n, 8) -> (n, 3) float32."""
    blend = np.einsum("nk,nkij->nij", weights, transforms[index])
    return (np.einsum("nij,nj->ni", blend[:, :, :3], points) + blend[:, :, 3]).astype(np.float32)


class PosedTemplate:
    """Torch twin of pose_template for batches of frames, restricted to chosen vertices; float32, differentiable.

    vertex_ids: template vertices to pose (all when None). Keypoints are available when the vertices hold them all: use
    `keypoint_template()`.
    """

    def __init__(self, template: Template | None = None, vertex_ids: np.ndarray | None = None) -> None:
        template = template or load_template()
        self.template = template
        ids = np.arange(len(template.vertices)) if vertex_ids is None else np.asarray(vertex_ids, np.int64)
        self.vertex_ids = ids
        self.vertices = torch.from_numpy(template.vertices[ids])
        self.heads = torch.from_numpy(template.bone_heads)
        self.shape_basis = torch.from_numpy(np.ascontiguousarray(template.shape_basis[:, ids]))
        self.bone_basis = torch.from_numpy(template.bone_basis)
        dense = np.zeros((len(ids), len(template.bone_names)), np.float32)
        np.add.at(dense, (np.arange(len(ids))[:, None], template.weights_index[ids]), template.weights[ids])
        self.weights = torch.from_numpy(dense)
        row = np.full(len(template.vertices), -1)
        row[template.face_action_vertices] = np.arange(len(template.face_action_vertices))
        self.moved = torch.from_numpy(np.flatnonzero(row[ids] >= 0))  # chosen vertices that the actions move
        self.actions = torch.from_numpy(
            np.ascontiguousarray(template.face_actions[:, row[ids][self.moved.numpy()]])
        )
        self.levels = _levels(template)

    def rest(self, shape: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vertices (n, 3) and bone heads (B, 3) at rest; shape (<=S,), or (T, <=S) for one of each frame."""
        if shape is None:
            return self.vertices, self.heads
        count = shape.shape[-1]
        vertices = self.vertices + torch.tensordot(shape, self.shape_basis[:count], 1)
        return vertices, self.heads + torch.tensordot(shape, self.bone_basis[:count], 1)

    def transforms(self, heads: Tensor, rotvecs: Tensor, translation: Tensor | None = None) -> Tensor:
        """Rest -> posed bone transforms (T, B, 3, 4) of rotvecs (T, B, 3), translation (T, 3)."""
        return _chain(heads, rotvecs, translation, self.levels)

    def with_actions(self, vertices: Tensor, face_weights: Tensor) -> Tensor:
        """Rest vertices (n, 3) or (T, n, 3) with face actions (T, A) added -> (T, n, 3)."""
        added = torch.tensordot(face_weights, self.actions, 1)
        return vertices.expand(len(face_weights), *vertices.shape[-2:]).index_add(1, self.moved, added)

    def skin(self, points: Tensor, transforms: Tensor) -> Tensor:
        """Linear blend skinning of points (n, 3) or (T, n, 3) by transforms (T, B, 3, 4) -> (T, n, 3)."""
        blend = torch.matmul(self.weights, transforms.flatten(2)).unflatten(2, (3, 4))
        return (blend[..., :3] * points[..., None, :]).sum(-1) + blend[..., 3]

    def __call__(
        self,
        shape: Tensor | None,
        rotvecs: Tensor,
        translation: Tensor | None = None,
        face_weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Posed vertices (T, n, 3) and bone heads (T, B, 3)."""
        vertices, heads = self.rest(shape)
        transforms = self.transforms(heads, rotvecs, translation)
        points = vertices if face_weights is None else self.with_actions(vertices, face_weights)
        posed_heads = (transforms[..., :3] * heads[..., None, :]).sum(-1) + transforms[..., 3]
        return self.skin(points, transforms), posed_heads


class KeypointTemplate(PosedTemplate):
    """The vertices that keypoints need, and the keypoints themselves."""

    def __init__(self, template: Template | None = None) -> None:
        template = template or load_template()
        ids = np.unique(np.concatenate([np.asarray(v) for _, v in KEYPOINT_VERTICES]))
        chosen = template.vertex_of_base[ids]
        assert (chosen >= 0).all(), "a keypoint vertex is not part of the template"
        super().__init__(template, chosen)
        place = {int(v): i for i, v in enumerate(ids)}
        mean = np.zeros((len(KEYPOINT_VERTICES), len(ids)), np.float32)
        for row, (_, vertices) in enumerate(KEYPOINT_VERTICES):
            for v in vertices:
                mean[row, place[v]] += 1 / len(vertices)
        self.mean = torch.from_numpy(mean)
        bones = torch.tensor([template.bone_index[name] for _, name in KEYPOINT_BONES])
        order = np.argsort([k for k, _ in (*KEYPOINT_BONES, *KEYPOINT_VERTICES)])
        self.bones, self.order = bones, torch.from_numpy(order)
        assert len(order) == len(KEYPOINTS)

    def keypoints(
        self,
        shape: Tensor | None,
        rotvecs: Tensor,
        translation: Tensor | None = None,
        face_weights: Tensor | None = None,
    ) -> Tensor:
        """Keypoints (T, K, 3) in the order of KEYPOINTS."""
        vertices, heads = self(shape, rotvecs, translation, face_weights)
        return torch.cat([heads[:, self.bones], self.mean @ vertices], 1)[:, self.order]


@lru_cache(maxsize=1)
def keypoint_template() -> KeypointTemplate:
    """The shared KeypointTemplate (cached)."""
    return KeypointTemplate()


def relaxed_rotvecs(template: Template | None = None) -> np.ndarray:
    """(B, 3) the shared neutral stance: arms about 25 degrees from the body, fingers slightly curled."""
    template = template or load_template()
    out = np.zeros((len(template.bone_names), 3), np.float32)
    heads = {name: template.bone_heads[i].astype(np.float64) for name, i in template.bone_index.items()}
    for side, sign in (("L", 1.0), ("R", -1.0)):
        for bone, degrees in (("upperarm01", 24), ("lowerarm01", 8), ("upperleg01", 5)):
            out[template.bone_index[f"{bone}.{side}"]] = (0, sign * np.radians(degrees), 0)
        palm = np.cross(
            heads[f"finger2-1.{side}"] - heads[f"wrist.{side}"],
            heads[f"finger5-1.{side}"] - heads[f"wrist.{side}"],
        )
        for finger in "2345":
            phalanx = heads[f"finger{finger}-2.{side}"] - heads[f"finger{finger}-1.{side}"]
            axis = np.cross(phalanx, palm)
            axis /= np.linalg.norm(axis)
            thumb = (heads[f"finger1-3.{side}"] + heads[f"finger1-2.{side}"]) / 2 - heads[f"finger3-1.{side}"]
            turn = 1.0 if np.cross(axis, phalanx) @ thumb > 0 else -1.0
            for joint, share in (("1", 1.0), ("2", 1.2), ("3", 0.7)):
                angle = np.radians(5 * share * (0.75 + 0.12 * int(finger)))
                out[template.bone_index[f"finger{finger}-{joint}.{side}"]] = axis * turn * angle
    return out


def _levels(template: Template) -> list[tuple[Tensor, Tensor]]:
    """Bones by depth: (bones, their parents' positions in the order of all earlier levels); bones in level order."""
    parents = template.bone_parents
    depth = np.zeros(len(parents), int)
    for b, p in enumerate(parents):
        depth[b] = 0 if p < 0 else depth[p] + 1
    place, levels, seen = {}, [], 0
    for d in range(depth.max() + 1):
        bones = np.flatnonzero(depth == d)
        above = [place[int(parents[b])] if d else 0 for b in bones]
        levels.append((torch.from_numpy(bones), torch.from_numpy(np.array(above, np.int64))))
        place |= {int(b): seen + k for k, b in enumerate(bones)}
        seen += len(bones)
    return levels


def _chain(
    heads: Tensor, rotvecs: Tensor, translation: Tensor | None, levels: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Forward kinematics level by level -> (T, B, 3, 4)."""
    turn = matrix_from_rotvec(rotvecs)
    shift = heads - (turn * heads[..., None, :]).sum(-1)  # x -> R (x - h) + h
    root = levels[0][0]
    first = shift[:, root] if translation is None else shift[:, root] + translation[:, None]
    rotations, offsets = [turn[:, root]], [first]
    all_r, all_t = rotations[0], offsets[0]
    for bones, above in levels[1:]:
        parent = all_r[:, above]
        rotations.append(parent @ turn[:, bones])
        offsets.append((parent * shift[:, bones, None, :]).sum(-1) + all_t[:, above])
        all_r, all_t = torch.cat([all_r, rotations[-1]], 1), torch.cat([all_t, offsets[-1]], 1)
    order = torch.argsort(torch.cat([bones for bones, _ in levels]))
    return torch.cat([all_r, all_t[..., None]], -1)[:, order]
