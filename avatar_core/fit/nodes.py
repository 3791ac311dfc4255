"""Control nodes: a few hundred particles whose rigid motions, blended, correct the whole surface.

Chosen by farthest-point sampling, dense at mouth and eyes and on the hands. A particle follows its 4 nearest nodes by
geodesic distance on the template's surface, so that the upper lip never follows the lower one. Depends on template and
layout only: the same nodes for every person.

Sources: embedded deformation, Sumner et al. 2007; geodesics by Dijkstra along mesh edges.
Shapes: N particles, K nodes, E edges, V template vertices.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

from avatar_core.particles.layout import ParticleLayout
from avatar_core.template.mesh import Template

BODY, FACE, HAND_LEFT, HAND_RIGHT, MOUTH_INTERIOR, EYES = range(6)
BLEND = 4  # nodes a particle follows
NEIGHBOURS = 6  # edges of a node
REACH = 0.30  # metres beyond which geodesic distances are not followed


@dataclass(frozen=True)
class NodeGraph:
    """particles (K,) int64: the nodes; neighbours (N,4) int64, weights (N,4) float32 summing to 1: what every particle
    follows; edges (E,2) int64 and edge_weight (E,) float32 with mean 1: between nodes close on the surface."""

    particles: np.ndarray
    neighbours: np.ndarray
    weights: np.ndarray
    edges: np.ndarray
    edge_weight: np.ndarray

    def matrix(self) -> csr_matrix:
        """The blend as a sparse (N,K) matrix."""
        n, k = len(self.neighbours), len(self.particles)
        rows = np.repeat(np.arange(n), self.neighbours.shape[1])
        return csr_matrix(coo_matrix((self.weights.ravel(), (rows, self.neighbours.ravel())), shape=(n, k)))


def make_nodes(
    template: Template, layout: ParticleLayout, face: int = 170, hand: int = 40, body: int = 110
) -> NodeGraph:
    """face, hand (each), body: how many nodes each gets.

    Takes seconds; the last few are kept, by the content of the layout.
    """
    key = hashlib.sha256(np.asarray(layout.template_positions).tobytes()).hexdigest(), face, hand, body
    if key not in _MADE:
        while len(_MADE) >= 4:
            _MADE.pop(next(iter(_MADE)))
        _MADE[key] = _make(template, layout, face, hand, body)
    return _MADE[key]


_MADE: dict[tuple, NodeGraph] = {}


def _make(template: Template, layout: ParticleLayout, face: int, hand: int, body: int) -> NodeGraph:
    points, region = np.asarray(layout.template_positions, np.float64), np.asarray(layout.region)
    nodes = np.concatenate(
        [
            _farthest(points, np.flatnonzero(region == FACE), face, _face_importance(points, layout)),
            _farthest(points, np.flatnonzero(region == HAND_LEFT), hand),
            _farthest(points, np.flatnonzero(region == HAND_RIGHT), hand),
            _farthest(points, np.flatnonzero(region == BODY), body),
        ]
    )
    distance = _geodesic(template, layout, points, nodes)
    order = np.argsort(distance, axis=0, kind="stable")[:BLEND].T  # (N,4)
    near = np.take_along_axis(distance, order.T, 0).T
    # Islands (eyes, teeth) reach no node along the surface: they follow the nearest nodes in space.
    lost = ~np.isfinite(near[:, 0])
    if lost.any():
        near[lost], order[lost] = cKDTree(points[nodes]).query(points[lost], k=BLEND)
    spread = np.where(
        np.isfinite(near[:, -1]), near[:, -1], np.nanmax(np.where(np.isfinite(near), near, np.nan), 1)
    )
    weights = np.exp(
        -((np.where(np.isfinite(near), near, np.inf) / (0.6 * np.maximum(spread, 1e-4))[:, None]) ** 2)
    )
    weights /= weights.sum(1, keepdims=True)
    edges, length = _edges(distance[:, nodes])
    strength = 1 / np.maximum(length, 0.004) ** 2
    return NodeGraph(
        nodes,
        order.astype(np.int64),
        weights.astype(np.float32),
        edges,
        (strength / strength.mean()).astype(np.float32),
    )


def _face_importance(points: np.ndarray, layout: ParticleLayout) -> np.ndarray:
    """(N,) density factor: 1, up to 3 at the mouth and 2.5 at the eyes."""
    mouth = points[np.concatenate([layout.lips_upper, layout.lips_lower])].mean(0)
    out = 1 + 2.0 * np.exp(-((points - mouth) ** 2).sum(1) / (2 * 0.022**2))
    eyes = np.asarray(layout.region) == EYES
    for side in (1, -1):
        one = eyes & (points[:, 0] * side > 0)
        if one.any():
            out += 1.5 * np.exp(-((points - points[one].mean(0)) ** 2).sum(1) / (2 * 0.02**2))
    return out


def _farthest(
    points: np.ndarray, candidates: np.ndarray, count: int, importance: np.ndarray | None = None
) -> np.ndarray:
    """Farthest-point sampling of `count` of the candidates (indices), distances multiplied by importance (N,)."""
    if len(candidates) <= count:
        return candidates
    p = points[candidates]
    gain = np.ones(len(p)) if importance is None else importance[candidates]
    chosen = [int(gain.argmax())]
    distance = np.full(len(p), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, np.linalg.norm(p - p[chosen[-1]], axis=1))
        chosen.append(int((distance * gain).argmax()))
    return candidates[np.array(chosen)]


def _geodesic(
    template: Template, layout: ParticleLayout, points: np.ndarray, nodes: np.ndarray
) -> np.ndarray:
    """(K,N) surface distances from node particles to all particles, inf beyond REACH or on another island."""
    vertices = np.asarray(template.layout_positions, np.float64)
    # Vertices that share a place (texture seams) are one.
    _, weld = np.unique(np.round(vertices, 6), axis=0, return_inverse=True)
    weld = weld.ravel()
    faces = np.asarray(template.faces)
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    if faces.shape[1] == 4:
        ends = np.concatenate([ends[: 2 * len(faces)], faces[:, [2, 3]], faces[:, [3, 0]], faces[:, [0, 2]]])
    length = np.linalg.norm(vertices[ends[:, 0]] - vertices[ends[:, 1]], axis=1) + 1e-6
    a, b = weld[ends[:, 0]], weld[ends[:, 1]]
    keep = a != b
    a, b, length = a[keep], b[keep], length[keep]
    low, high = np.minimum(a, b), np.maximum(a, b)
    pair, index = np.unique(low.astype(np.int64) * len(vertices) + high, return_index=True)
    total = int(weld.max()) + 1
    graph = coo_matrix(
        (length[index], (pair // len(vertices), pair % len(vertices))), shape=(total, total)
    ).tocsr()
    corners = np.asarray(layout.triangles)
    source_corner = np.asarray(layout.barycentric)[nodes].argmax(1)
    source = weld[corners[nodes, source_corner]]
    reach = dijkstra(graph, directed=False, indices=source, limit=REACH)  # (K,V)
    spoke = np.linalg.norm(points[:, None] - vertices[corners], axis=-1)  # (N,3)
    out = np.min([reach[:, weld[corners[:, c]]] + spoke[:, c] for c in range(3)], axis=0)
    out[np.arange(len(nodes)), nodes] = 0
    return out


def _edges(between: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directed edges (E,2) and lengths (E,) to the NEIGHBOURS nearest nodes, from distances (K,K)."""
    between = between.copy()
    np.fill_diagonal(between, np.inf)
    order = np.argsort(between, axis=1, kind="stable")[:, :NEIGHBOURS]
    i = np.repeat(np.arange(len(between)), order.shape[1])
    j = order.ravel()
    length = between[i, j]
    keep = np.isfinite(length)
    return np.stack([i[keep], j[keep]], 1).astype(np.int64), length[keep]
