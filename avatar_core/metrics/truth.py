"""How far a fit is from the truth, where a teacher keeps it apart. For reports and evaluation only: no fit may call this.

Every true vertex is predicted from the particles around it on the neutral template, with weights that reproduce it there
exactly; what is left is the error of the fit (shape of the person included), in millimetres. How tall somebody is and how far
away cannot be told from one camera: one scale and place per clip are taken out. Lips and face are compared in
the head's frame (each side's own skull takes the head's motion out), hands and body in the world.

Shapes: T frames, Q truth vertices, N particles, k particles around a vertex.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import KDTree

from avatar_core.geometry.rotations import quat_to_matrix, rigid_fit
from avatar_core.metrics.mouth import correlation, lip_aperture, slope
from avatar_core.particles.layout import ParticleLayout
from avatar_core.template.landmarks import FACE_LANDMARKS, FACE_POINTS, LOWER_LIP_MIDDLE, UPPER_LIP_MIDDLE
from avatar_core.template.mesh import Template

AROUND = 6
REBUILT = 1.5e-3  # m by which the particles around it may miss a vertex on the template
BODY, FACE, HAND_LEFT, HAND_RIGHT = range(4)
LIP_LINE = tuple(  # (upper, lower) vertices of the inner lips that meet, from the middle to either corner
    (FACE_POINTS[name][0], FACE_POINTS[name.replace(".upper", ".lower")][0])
    for name in FACE_POINTS
    if name.startswith("lips_inner.upper")
)
_LIPS = np.array(sorted({*FACE_LANDMARKS["lips_outer"], *FACE_LANDMARKS["lips_inner"]}))


@dataclass(frozen=True)
class Correspondence:
    """True surface points and the same points predicted from particles. ids (Q,) base.obj numbering; points (T,Q,3) ours and
    truth (T,Q,3), in their own worlds; aligned and still (T,Q,3): ours and the truth in the head's frame. Masks (Q,) of the
    regions; skull: rigid with the head."""

    ids: np.ndarray
    points: np.ndarray
    truth: np.ndarray
    aligned: np.ndarray
    still: np.ndarray
    lips: np.ndarray
    face: np.ndarray
    hands: np.ndarray
    body: np.ndarray
    skull: np.ndarray


def correspond(
    vertex_ids: np.ndarray,
    positions: np.ndarray,
    template: Template,
    layout: ParticleLayout,
    means: np.ndarray,
) -> Correspondence:
    """Match particles means (T,N,3) to true positions (T,Q,3) of vertex_ids (Q,), base.obj numbering."""
    vertex_ids, positions = np.asarray(vertex_ids), np.asarray(positions)
    if positions.shape[1:] != (len(vertex_ids), 3) or len(positions) != len(means):
        raise ValueError(f"truth: expected ({len(means)},{len(vertex_ids)},3), found {positions.shape}")
    known = template.vertex_of_base[np.minimum(vertex_ids, len(template.vertex_of_base) - 1)]
    use = np.flatnonzero(known >= 0)
    places = template.layout_positions[known[use]]
    index, weights, region = _interpolation(places, layout)
    # Where no particles are near (the back of an eyeball, the throat) nothing can be said.
    rebuilt = np.einsum("qkc,qk->qc", np.asarray(layout.template_positions)[index], weights)
    good = np.linalg.norm(rebuilt - places, axis=1) < REBUILT
    use, index, weights, region = use[good], index[good], weights[good], region[good]
    ids, truth = vertex_ids[use], positions[:, use]
    ours = np.einsum("tqkc,qk->tqc", np.asarray(means, np.float32)[:, index], weights)
    skull = (region == BODY) & (template.bone_weight("head")[known[use]] > 0.97)
    aligned, still = _to_head(ours, truth, skull, region == FACE)
    hands = np.isin(region, (HAND_LEFT, HAND_RIGHT))
    return Correspondence(
        ids, ours, truth, aligned, still, np.isin(ids, _LIPS), region == FACE, hands, region == BODY, skull
    )


def truth_report(
    vertex_ids: np.ndarray,
    positions: np.ndarray,
    template: Template,
    layout: ParticleLayout,
    means: np.ndarray,
    visible: Mapping[str, bool] | None = None,
) -> dict[str, float]:
    """Errors of fitted means (T,N,3) against true positions (T,Q,3) of vertex_ids (Q,), base.obj numbering.

    Keys: lips_mm, face_mm (head frame), hands_mm, body_mm, lip_correlation, lip_slope (aperture between the mid inner lips,
    fit on truth). With `visible` (see particles.framing.VISIBLE), regions that the framing does not show are left out.
    """
    match = correspond(vertex_ids, positions, template, layout, means)
    shown = visible or dict.fromkeys(("body", "head", "face", "hand"), True)
    out: dict[str, float] = {}

    def millimetres(error: np.ndarray) -> float:
        return float(np.linalg.norm(error, axis=-1).mean() * 1e3)

    if shown["face"]:
        if match.lips.any():
            out["lips_mm"] = millimetres(match.aligned[:, match.lips] - match.still[:, match.lips])
        out["face_mm"] = millimetres((match.aligned - match.still)[:, match.face])
        true = true_aperture(vertex_ids, positions, template)
        if true is not None:
            ours = particle_aperture(means, layout)
            out["lip_correlation"], out["lip_slope"] = correlation(ours, true), slope(ours, true)
    if shown["body"] or shown["hand"]:
        placed = _to_world(match.points, match.truth, match.body)
        if shown["hand"]:
            out["hands_mm"] = millimetres((placed - match.truth)[:, match.hands])
        if shown["body"]:
            out["body_mm"] = millimetres((placed - match.truth)[:, match.body])
    return out


def particle_aperture(means: np.ndarray, layout: ParticleLayout) -> np.ndarray:
    """(T,) metres, signed: the middles of the inner lips of base particles (T,N,3), see metrics.mouth."""
    up = _upward(means[:, np.asarray(layout.carriers["head"])])
    upper, lower = means[:, layout.lips_upper].mean(1), means[:, layout.lips_lower].mean(1)
    return lip_aperture(upper, lower, up)


def lip_line(match: Correspondence) -> tuple[np.ndarray, np.ndarray]:
    """Signed gaps in metres, ours (T,P) and true (T,P), of the pairs along the line where the lips meet (`LIP_LINE`).

    ValueError where the truth lacks one. Locked by test_the_lip_line_is_open_where_one_pair_is.
    """
    row = {int(id): k for k, id in enumerate(match.ids)}
    if missing := [pair for pair in LIP_LINE if not row.keys() >= set(pair)]:
        raise ValueError(f"truth: expected the vertices of the lips, found none of {missing[0]}")
    upper, lower = (np.array([row[pair[side]] for pair in LIP_LINE]) for side in (0, 1))

    def gaps(points: np.ndarray) -> np.ndarray:
        up = _upward(points[:, match.skull])[:, None]
        return lip_aperture(points[:, upper], points[:, lower], up)

    return gaps(match.points), gaps(match.truth)


def true_aperture(vertex_ids: np.ndarray, positions: np.ndarray, template: Template) -> np.ndarray | None:
    """(T,) metres, signed: the same two points of the true surface (T,Q,3); None if the truth lacks them."""
    ids = np.asarray(vertex_ids)
    upper, lower = (np.flatnonzero(ids == v) for v in (UPPER_LIP_MIDDLE, LOWER_LIP_MIDDLE))
    if not len(upper) or not len(lower):
        return None
    known = template.vertex_of_base[np.minimum(ids, len(template.vertex_of_base) - 1)]
    rigid = template.bone_weight("head") > 0.97
    rigid[template.face_action_vertices] = False  # chin and lips ride on the head, but are not its skull
    skull = np.flatnonzero((known >= 0) & rigid[known])
    up = _upward(positions[:, skull])
    return lip_aperture(positions[:, upper[0]], positions[:, lower[0]], up)


def _upward(skull: np.ndarray) -> np.ndarray:
    """The head's upward axis (T,3) from its skull (T,C,3), which is taken to be upright in the first frame."""
    points = torch.from_numpy(np.asarray(skull, np.float64))
    quat, _, _ = rigid_fit(points[0], points)
    return quat_to_matrix(quat)[:, :, 2].numpy()


def _interpolation(places: np.ndarray, layout: ParticleLayout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Particles (Q,k), weights (Q,k) that reproduce places (Q,3) of the template from particles there, region (Q,)."""
    points, regions = np.asarray(layout.template_positions, np.float64), np.asarray(layout.region)
    distance, nearest = KDTree(points, leafsize=16).query(places)
    nearest = np.asarray(nearest)
    region = regions[nearest]
    index = np.zeros((len(places), AROUND), np.int64)
    for code in np.unique(region):
        rows, pool = np.flatnonzero(region == code), np.flatnonzero(regions == code)
        index[rows] = pool[KDTree(points[pool], leafsize=16).query(places[rows], k=AROUND)[1]]
    # Affine weights of least norm: sum 1, reproduce the place; damped against flat neighbourhoods.
    local = (points[index] - places[:, None]) * 100  # centimetres, so that both conditions weigh alike
    rows = np.concatenate([local, np.ones((*index.shape, 1))], -1)  # (Q,k,4)
    normal = np.einsum("qki,qkj->qij", rows, rows) + 1e-3 * np.eye(4)
    target = np.array([0, 0, 0, 1.0])
    weights = np.einsum(
        "qki,qi->qk",
        rows,
        np.linalg.solve(normal, np.broadcast_to(target, (len(places), 4))[..., None])[..., 0],
    )
    weights /= weights.sum(1, keepdims=True)
    exact = distance < 1e-4
    index[exact], weights[exact] = nearest[exact, None], 0
    weights[exact, 0] = 1
    return index, weights, region


def _to_head(
    ours: np.ndarray, truth: np.ndarray, skull: np.ndarray, face: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both (T,Q,3) in the head frame of the first frame, each by the motion of its own skull, ours then moved and
    scaled as one for the whole clip so that its mean face lies on the true one."""
    still = []
    for points in (ours, truth):
        moving = torch.from_numpy(np.asarray(points, np.float64))
        quat, centre, centre_t = rigid_fit(moving[0, skull], moving[:, skull])
        still.append(((moving - centre_t[:, None]) @ quat_to_matrix(quat) + centre).numpy())
    a, b = still
    mean_a, mean_b = torch.from_numpy(a.mean(0)[face]), torch.from_numpy(b.mean(0)[face])
    quat, centre, centre_t = rigid_fit(mean_a, mean_b[None])
    turned = (a - centre.numpy()) @ quat_to_matrix(quat)[0].numpy().T
    return turned * _scale(turned.mean(0)[face], b.mean(0)[face]) + centre_t[0].numpy(), b


def _to_world(ours: np.ndarray, truth: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Ours (T,Q,3), turned, scaled and shifted as one for the whole clip so that the body lies best on the true one: where the
    camera stood is an estimate."""
    a, b = (torch.from_numpy(np.asarray(x[:, body].reshape(-1, 3), np.float64)) for x in (ours, truth))
    quat, centre, centre_t = rigid_fit(a, b[None])
    turned = (ours - centre.numpy()) @ quat_to_matrix(quat)[0].numpy().T
    return turned * _scale(turned[:, body].reshape(-1, 3), b.numpy()) + centre_t[0].numpy()


def _scale(a: np.ndarray, b: np.ndarray) -> float:
    """The factor that makes points a (n,3) as large as their partners b, both about their means (least squares)."""
    a, b = a - a.mean(0), b - b.mean(0)
    return float((a * b).sum() / max((a * a).sum(), 1e-12))
