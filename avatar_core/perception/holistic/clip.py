"""One person through a clip: every net runs on many frames at once, at places that a few anchor frames give.

The first frame with a face says who is followed: the largest. Anchor frames find face and body anew from there; between them
places are interpolated, the face is looked at in every frame, body and hands in every third. A call remembers nothing of the last.

Legend: T frames, A anchors, H W pixels. Left and right are the person's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar_core.perception.holistic.detect import detect
from avatar_core.perception.holistic.hands import (
    HAND_LEAST,
    SIDES,
    WRIST_REACH,
    WRIST_SEEN,
    pixels_per_metre,
)
from avatar_core.perception.holistic.people import BODY_LEAST, FACE_LEAST, Person, find_people
from avatar_core.perception.holistic.points import body_points, face_points, hand_pair, hand_points
from avatar_core.perception.holistic.regions import (
    MESH_MARGIN,
    Picture,
    body_from_points,
    face_from_box,
    face_from_mesh,
    hand_from_body,
    hand_from_pair,
    hand_from_points,
)

ANCHOR, STEP = 8, 3  # frames between anchors, and between looks at body and hands
RARE = 24  # frames between looks at a body whose arms are not in the picture
HAND_ANCHOR = 3  # looks at a hand between those that find its place anew
SEARCH = 4.0  # side of the square in which an anchor looks for the face, in sides of the first one
SHIFTED, RESIZED = 0.08, 0.12  # of a region's side: a look from a place this far off is done again
BODY_SHIFTED = 0.15
ARMS = [13, 14, 15, 16]
ARMS_SEEN = 0.3
BRIDGED = 6  # frames at most over which a hand is interpolated


@dataclass(frozen=True)
class ClipPoints:
    """A person in T frames: the fields of `people.Person`, time first; presence is 0 where a part is not seen."""

    face: np.ndarray
    face_presence: np.ndarray
    pose: np.ndarray
    pose_visibility: np.ndarray
    hands: dict[str, np.ndarray]
    hand_presence: dict[str, np.ndarray]


def _between(at: np.ndarray, values: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Values (A,...) at frame numbers (A,), linear between them and held outside, at `frames`."""
    flat = values.reshape(len(at), -1)
    out = np.stack([np.interp(frames, at, column) for column in flat.T], -1)
    return out.reshape(len(frames), *values.shape[1:])


def _regions_between(at: np.ndarray, regions: np.ndarray, frames: np.ndarray) -> np.ndarray:
    regions = regions.copy()
    regions[:, 3] = np.unwrap(regions[:, 3])
    return _between(at, regions, frames)


def _off(used: np.ndarray, own: np.ndarray, shift: float = SHIFTED) -> np.ndarray:
    """Which looks (N,) were made from regions `used` (N,4) that are not where their own points would put them."""
    moved = np.linalg.norm(own[:, :2] - used[:, :2], axis=1) / own[:, 2]
    return (moved > shift) | (np.abs(np.log(own[:, 2] / used[:, 2])) > RESIZED)


def _seed(frames: np.ndarray) -> Person | None:
    """The person of the first of a few frames in which one is seen."""
    for at in dict.fromkeys([0, len(frames) // 2, len(frames) - 1]):
        people = [p for p in find_people(frames[at]) if p.face_presence > 0]
        if people:
            return people[0]
    return None


def _face(pictures: list[Picture], seed: Person) -> tuple[np.ndarray, np.ndarray]:
    """Mesh (T,478,3) and presence (T,)."""
    count = len(pictures)
    every = np.arange(count)
    anchors = np.unique(np.append(every[::ANCHOR], count - 1))
    first = face_from_mesh(seed.face[None, :, :2])[0]
    square = np.array([first[0], first[1], SEARCH * first[2] / MESH_MARGIN, 0.0])
    views = [pictures[i] for i in anchors]
    regions = np.repeat(first[None], len(anchors), 0)
    centre = first[:2]
    for k, seen in enumerate(detect("face_near", views, np.repeat(square[None], len(anchors), 0))):
        if len(seen.score):
            found = face_from_box(seen.box, seen.points)
            nearest = int(np.argmin(np.linalg.norm(found[:, :2] - centre, axis=1)))
            regions[k] = found[nearest]
            centre = found[nearest, :2]
    mesh, presence = face_points(views, regions)
    mesh, presence = face_points(views, face_from_mesh(mesh[..., :2]))
    sure = presence > FACE_LEAST
    if not sure.any():
        return np.zeros((count, 478, 3)), np.zeros(count)
    regions = _regions_between(anchors[sure], face_from_mesh(mesh[sure][..., :2]), every)
    mesh, presence = face_points(pictures, regions)
    own = face_from_mesh(mesh[..., :2])
    again = np.flatnonzero((presence > FACE_LEAST) & _off(regions, own))
    if len(again):
        mesh[again], presence[again] = face_points([pictures[i] for i in again], own[again])
    lost = presence <= FACE_LEAST
    return np.where(lost[:, None, None], 0.0, mesh), np.where(lost, 0.0, presence)


@dataclass(frozen=True)
class _Body:
    """Frame numbers (N,), regions (N,4), points (N,33,2), visibility (N,33), world (N,33,3)."""

    at: np.ndarray
    regions: np.ndarray
    points: np.ndarray
    visibility: np.ndarray
    world: np.ndarray


def _look_at_bodies(pictures: list[Picture], at: np.ndarray, regions: np.ndarray) -> _Body:
    views = [pictures[i] for i in at]
    found = body_points(views, regions)
    own = body_from_points(found.centre, found.top)
    points, world, visibility = found.points, found.world, found.visibility * found.presence
    flag = found.flag.copy()
    again = np.flatnonzero((flag > BODY_LEAST) & _off(regions, own, BODY_SHIFTED))
    if len(again):
        more = body_points([views[i] for i in again], own[again])
        points[again], world[again], flag[again] = more.points, more.world, more.flag
        visibility[again] = more.visibility * more.presence
        own[again] = body_from_points(more.centre, more.top)
    limit = [pictures[0].width, pictures[0].height]
    inside = ((points >= 0) & (points < limit)).all(-1)
    return _Body(at, own, points, visibility * inside * (flag > BODY_LEAST)[:, None], world)


def _body(pictures: list[Picture], seed: Person) -> _Body:
    """The body at some frames: the anchors, and every second where arms are seen."""
    every = np.arange(len(pictures))
    stride = ANCHOR if seed.pose_visibility[ARMS].max() > ARMS_SEEN else RARE
    anchors = np.unique(np.append(every[::stride], len(every) - 1))
    place = _seed_region(seed)
    body = _look_at_bodies(pictures, anchors, np.repeat(place[None], len(anchors), 0))
    if body.visibility[:, ARMS].max() < ARMS_SEEN:
        return body
    at = np.unique(np.append(every[::STEP], len(every) - 1))
    return _look_at_bodies(pictures, at, _regions_between(anchors, body.regions, at))


def _seed_region(seed: Person) -> np.ndarray:
    """The body's region from its points: hips and the farthest of its ends."""
    hips = seed.pose[[23, 24]].mean(0)
    shoulders = seed.pose[[11, 12]].mean(0)
    up = (shoulders - hips) / max(np.linalg.norm(shoulders - hips), 1e-6)
    reach = 1.15 * np.linalg.norm(seed.pose[[0, 27, 28]] - hips, axis=1).max()
    return body_from_points(hips[None], (hips + reach * up)[None])[0]


def _hand(pictures: list[Picture], body: _Body, side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame numbers (N,) where the wrist is seen; points (N,21,3) and presence (N,), 0 where no hand is accepted."""
    _, wrist, little, index = SIDES[side]
    other = SIDES["R" if side == "L" else "L"][1]
    chosen = np.flatnonzero(body.visibility[:, wrist] > WRIST_SEEN)
    at, points = body.at[chosen], body.points[chosen]
    if not len(at):
        return at, np.zeros((0, 21, 3)), np.zeros(0)
    scale = np.array([pixels_per_metre(p, w) for p, w in zip(points, body.world[chosen], strict=True)])
    views = [pictures[i] for i in at]

    def look(which: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points and presence of some of the looks; presence is 0 where it is no hand, or not this one."""
        xy, flag, right = hand_points([views[i] for i in which], regions)
        gap = np.linalg.norm(xy[:, 0, :2] - points[which, wrist], axis=1) / scale[which]
        gap_other = np.linalg.norm(xy[:, 0, :2] - points[which, other], axis=1) / scale[which]
        ours = right if side == "R" else 1 - right
        nearer = gap + WRIST_REACH * (1 - ours) <= gap_other + WRIST_REACH * ours
        return xy, np.where((flag > HAND_LEAST) & (gap < WRIST_REACH) & nearer, flag, 0.0)

    def anew(which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        body_hand = [points[which, k] for k in (wrist, little, index)]
        wide = hand_from_body(*body_hand)
        pair = hand_pair([views[i] for i in which], wide)
        xy, _ = look(which, hand_from_pair(*pair))
        return look(which, hand_from_points(xy[..., :2]))

    everything = np.arange(len(at))
    anchors = np.unique(np.append(everything[::HAND_ANCHOR], len(at) - 1))
    hand, flag = np.zeros((len(at), 21, 3)), np.zeros(len(at))
    hand[anchors], flag[anchors] = anew(anchors)
    known = anchors[flag[anchors] > 0]
    rest = np.setdiff1d(everything, anchors)
    if len(known) and len(rest):
        # The wrist's own way between anchors is known: the hand's place is interpolated relative to it.
        place = hand_from_points(hand[known][..., :2])
        place[:, :2] -= points[known, wrist]
        regions = _regions_between(at[known], place, at[rest])
        regions[:, :2] += points[rest, wrist]
        hand[rest], flag[rest] = look(rest, regions)
    lost = rest[flag[rest] == 0]
    if len(lost):
        hand[lost], flag[lost] = anew(lost)
    return at, hand, flag


def _all_frames(
    at: np.ndarray, points: np.ndarray, presence: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points at some frames -> all frames (T,...) and presence (T,): bridged over short gaps, 0 elsewhere."""
    seen = np.flatnonzero(presence > 0)
    if not len(seen):
        return np.zeros((count, *points.shape[1:])), np.zeros(count)
    every, where = np.arange(count), at[seen]
    after = np.searchsorted(where, every).clip(0, len(where) - 1)
    before = (np.searchsorted(where, every, "right") - 1).clip(0)
    near = np.where(
        (every >= where[0]) & (every <= where[-1]),
        where[after] - where[before] <= BRIDGED,
        np.minimum(np.abs(where[after] - every), np.abs(where[before] - every)) < STEP,
    )
    return _between(where, points[seen], every), _between(where, presence[seen], every) * near


def track_face(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Face mesh (T,478,3) and presence (T,) of the person that `track_person` follows in frames (T,H,W,3), without the rest."""
    seed = _seed(frames)
    if seed is None:
        return np.zeros((len(frames), 478, 3)), np.zeros(len(frames))
    return _face([Picture(frame) for frame in frames], seed)


def track_person(frames: np.ndarray) -> ClipPoints:
    """Frames (T,H,W,3) uint8 of one shot, in order -> its person; all presences are 0 when nobody's face is seen."""
    count = len(frames)
    seed = _seed(frames)
    if seed is None:
        empty = {side: np.zeros(count) for side in "LR"}
        nothing = {side: np.zeros((count, 21, 3)) for side in "LR"}
        return ClipPoints(
            np.zeros((count, 478, 3)),
            np.zeros(count),
            np.zeros((count, 33, 2)),
            np.zeros((count, 33)),
            nothing,
            empty,
        )
    pictures = [Picture(frame) for frame in frames]
    mesh, presence = _face(pictures, seed)
    body = _body(pictures, seed)
    every = np.arange(count)
    hands, hand_presence = {}, {}
    for side in "LR":
        at, points, flag = _hand(pictures, body, side)
        hands[side], hand_presence[side] = _all_frames(at, points, flag, count)
    return ClipPoints(
        mesh,
        presence,
        _between(body.at, body.points, every),
        _between(body.at, body.visibility, every),
        hands,
        hand_presence,
    )
