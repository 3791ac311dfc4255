"""The people of one photograph: face mesh, body and hands of each.

A face is looked for in the whole picture by two detectors (near and far) and, from the full resolution, wherever a body's points
say that a head is; the mesh's own presence decides. Pictures that lie on their side or stand on their head are looked at in
all four turns.

Legend: H W pixels of the picture; coordinates are pixels with pixel centres at +0.5. Left and right are the person's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch

from avatar_core.perception.holistic.detect import detect
from avatar_core.perception.holistic.graph import load_graph
from avatar_core.perception.holistic.hands import find_hands
from avatar_core.perception.holistic.points import Bodies, body_points, face_points
from avatar_core.perception.holistic.regions import (
    EYE_L,
    EYE_R,
    Picture,
    body_from_points,
    face_from_box,
    face_from_mesh,
    whole,
)

FACE_LEAST = 0.5  # presence from which a face is one
SURE = 0.9  # presence of an upright face from which no other turn of the picture is tried
BODY_LEAST = 0.5
LONE_BODY_LEAST = 0.8  # of a body whose face is not seen, and of its shoulders' visibility
ASIDE_SCALE, ASIDE_SHIFT = (
    np.array([1.0, 1.0, 1.25, 1.0]),
    np.array([0.08, 0.08, 0.0, 0.0]),
)  # of a third look
MOVED_MOST = 0.05  # shares of the face's side by which a mesh may move between two looks
SAME = 0.35  # share of a face's side within which two centres are one face
SHOULDERS, HEAD = [11, 12], list(range(11))


@dataclass(frozen=True)
class Person:
    """One person of a picture.

    face (478,3): pixels x, y and weak depth in the same unit, zeros when face_presence is 0; face_presence in [0,1];
    pose (33,2) px in MediaPipe's order; pose_visibility (33,): visibility times presence, 0 outside the picture;
    pose_world (33,3): metres, centred on the hips, x right, y down, z away from the camera;
    hands: "L" and "R" -> (21,3) pixels and weak depth, absent when not found; hand_presence: the same keys, in [0,1];
    box (4,): x0 y0 x1 y1 of the face, or of the body's head; turn: quarter turns clockwise that put the picture upright.
    """

    face: np.ndarray
    face_presence: float
    pose: np.ndarray
    pose_visibility: np.ndarray
    pose_world: np.ndarray
    hands: dict[str, np.ndarray]
    hand_presence: dict[str, float]
    box: np.ndarray
    turn: int = field(default=0)


@dataclass(frozen=True)
class Faces:
    """mesh (N,478,3) px, presence (N,), box (N,4) px; distinct, largest first."""

    mesh: np.ndarray
    presence: np.ndarray
    box: np.ndarray

    @property
    def roll(self) -> np.ndarray:
        """Turn (N,) of the line of the eyes against the horizontal, clockwise on screen."""
        line = self.mesh[:, EYE_L, :2] - self.mesh[:, EYE_R, :2]
        return np.arctan2(line[:, 1], line[:, 0])


def _mesh_box(mesh: np.ndarray) -> np.ndarray:
    return np.concatenate([mesh[:, :468, :2].min(1), mesh[:, :468, :2].max(1)], 1)


def _faces(picture: Picture, regions: np.ndarray) -> Faces:
    """Meshes found in regions (N,4): two looks, the second placed by the first, and a third from a place beside.

    A face looks the same from there; what the net only imagines (fur, wheels, folds) moves or goes, and is dropped.
    """
    mesh, presence = face_points([picture] * len(regions), regions)
    for aside in (False, True):
        keep = presence > FACE_LEAST
        mesh, presence = mesh[keep], presence[keep]
        if not len(mesh):
            break
        regions = face_from_mesh(mesh[..., :2])
        if not aside:
            mesh, presence = face_points([picture] * len(regions), regions)
            continue
        regions = regions * ASIDE_SCALE + ASIDE_SHIFT * regions[:, 2:3]
        again, seen = face_points([picture] * len(regions), regions)
        side = np.ptp(mesh[:, :468, :2], axis=1).max(1)
        moved = np.linalg.norm((again - mesh)[..., :2], axis=2).mean(1) / side
        keep = (seen > FACE_LEAST) & (moved < MOVED_MOST)
        mesh, presence = mesh[keep], np.minimum(presence, seen)[keep]
    box = _mesh_box(mesh) if len(mesh) else np.zeros((0, 4))
    side = (box[:, 2:] - box[:, :2]).max(1) if len(box) else np.zeros(0)
    centre = (box[:, 2:] + box[:, :2]) / 2
    chosen: list[int] = []
    for i in np.argsort(-presence, kind="stable"):
        if all(np.linalg.norm(centre[i] - centre[j]) > SAME * max(side[i], side[j]) for j in chosen):
            chosen.append(int(i))
    chosen.sort(key=lambda i: -side[i])
    return Faces(mesh[chosen], presence[chosen], box[chosen])


def _face_regions(picture: Picture, where: np.ndarray, nets: Sequence[str]) -> np.ndarray:
    """Regions (N,4) of the faces that the detectors `nets` see in the squares `where` (M,4)."""
    found = [np.zeros((0, 4))]
    for net in nets:
        for seen in detect(net, [picture] * len(where), where):
            if len(seen.score):
                found.append(face_from_box(seen.box, seen.points))
    return np.concatenate(found)


def _bodies(picture: Picture, regions: np.ndarray) -> Bodies:
    """Body points of every region (N,4), twice."""
    bodies = body_points([picture] * len(regions), regions)
    again = body_from_points(bodies.centre, bodies.top)
    return body_points([picture] * len(regions), again)


def _heads(bodies: Bodies) -> np.ndarray:
    """Squares (N,4) round the heads, turned as the eyes are."""
    centre = bodies.points[:, HEAD].mean(1)
    ears = np.linalg.norm(bodies.points[:, 7] - bodies.points[:, 8], axis=1)
    eyes = np.linalg.norm(bodies.points[:, 2] - bodies.points[:, 5], axis=1)
    mouth = np.linalg.norm(
        bodies.points[:, [2, 5]].mean(1) - bodies.points[:, [9, 10]].mean(1), axis=1
    )  # stays long when the head turns
    side = 3.5 * np.maximum(np.maximum(ears, 1.5 * eyes), 1.5 * mouth)
    line = bodies.points[:, [1, 2, 3]].mean(1) - bodies.points[:, [4, 5, 6]].mean(1)
    roll = np.arctan2(line[:, 1], line[:, 0])
    return np.concatenate([centre, np.maximum(side, 8.0)[:, None], roll[:, None]], 1)


def _below(faces: Faces) -> np.ndarray:
    """Body regions (N,4) guessed from faces: an upright adult below each."""
    size = (faces.box[:, 3] - faces.box[:, 1])[:, None]
    middle = (faces.box[:, :2] + faces.box[:, 2:]) / 2
    roll = faces.roll[:, None]
    down = np.concatenate([-np.sin(roll), np.cos(roll)], 1)
    return body_from_points(middle + 3.3 * size * down, middle - 1.2 * size * down)


def _turn(roll: float) -> int:
    """Quarter turns clockwise that bring a face with this roll upright."""
    return int(-np.round(roll / (np.pi / 2))) % 4


def _best_turn(picture: Picture, faces: Faces) -> tuple[int, Faces]:
    """Faces found with the picture turned, in its own pixels, when they are more certain than those found as it is."""
    image = picture.levels[0]

    def certainty(found: Faces) -> float:
        upright = np.abs(found.roll) < np.pi / 3
        return float((found.presence * upright).max(initial=0.0))

    best, turn, chosen = certainty(faces), 0, faces
    if best >= SURE:
        return 0, faces
    for quarter in (1, 2, 3):
        view = Picture(np.ascontiguousarray(np.rot90(image, -quarter)))
        found = _faces(view, _face_regions(view, whole(view.width, view.height), ("face_near", "face_far")))
        if certainty(found) > max(best, SURE):
            best, turn, chosen = certainty(found), quarter, found
    if turn:
        width, height = picture.width, picture.height
        mesh = chosen.mesh.copy()
        mesh[..., :2] = turned_back(chosen.mesh[..., :2], turn, width, height)
        chosen = Faces(mesh, chosen.presence, _mesh_box(mesh))
    return turn, chosen


def turned_back(points: np.ndarray, turn: int, width: int, height: int) -> np.ndarray:
    """Pixels (...,2) of a picture turned `turn` quarters clockwise -> pixels of the picture itself (width x height)."""
    x, y = points[..., 0], points[..., 1]
    out = [(x, y), (y, height - x), (width - x, height - y), (width - y, x)][turn % 4]
    return np.stack(out, -1)


def find_people(image: np.ndarray) -> list[Person]:
    """Picture (H,W,3) uint8 -> its people, the largest face first, then bodies without a face; [] when there is nobody."""
    image = np.ascontiguousarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"find_people: expected (H,W,3) uint8, found {image.shape} {image.dtype}")
    picture = Picture(image)
    people = _find_upright(picture)
    if people and people[0].face_presence >= SURE and people[0].turn == 0:
        return people
    turn = people[0].turn if people else 0
    if not turn:
        turn, _ = _best_turn(picture, _as_faces(people))
    if not turn:
        return people
    view = Picture(np.ascontiguousarray(np.rot90(image, -turn)))
    upright = [p for p in _find_upright(view) if p.turn == 0 and p.face_presence > 0]
    if not upright:
        return people
    return [_turned_person(p, turn, picture.width, picture.height) for p in upright]


def _as_faces(people: list[Person]) -> Faces:
    seen = [p for p in people if p.face_presence > 0]
    mesh = np.array([p.face for p in seen]).reshape(-1, 478, 3)
    return Faces(
        mesh, np.array([p.face_presence for p in seen]), _mesh_box(mesh) if seen else np.zeros((0, 4))
    )


def _turned_person(person: Person, turn: int, width: int, height: int) -> Person:
    def back(points: np.ndarray) -> np.ndarray:
        out = points.copy()
        out[:, :2] = turned_back(points[:, :2], turn, width, height)
        return out

    world = person.pose_world.copy()
    x, y = world[:, 0].copy(), world[:, 1].copy()
    world[:, 0], world[:, 1] = [(x, y), (y, -x), (-x, -y), (-y, x)][turn]
    box = np.sort(back(person.box.reshape(2, 2)), 0).reshape(4)
    return replace(
        person,
        face=back(person.face),
        pose=back(person.pose),
        pose_world=world,
        hands={k: back(v) for k, v in person.hands.items()},
        box=box,
        turn=turn,
    )


def _find_upright(picture: Picture) -> list[Person]:
    """People of a picture that stands upright."""
    square = whole(picture.width, picture.height)
    (seen,) = detect("body_box", [picture], square)
    bodies = None
    regions = _face_regions(picture, square, ("face_near", "face_far"))
    if len(seen.score):
        bodies = _bodies(picture, body_from_points(seen.points[:, 0], seen.points[:, 1]))
        there = bodies.flag > BODY_LEAST
        if there.any():
            regions = np.concatenate([regions, _face_regions(picture, _heads(bodies)[there], ("face_near",))])
    faces = _faces(picture, regions)
    return _assembled(picture, faces, bodies)


def _assembled(picture: Picture, faces: Faces, bodies: Bodies | None) -> list[Person]:
    """Each face gets the body whose nose is nearest to its own, or a look below it; bodies that are left stand alone."""
    used: set[int] = set()
    own: list[int] = []
    for mesh, box in zip(faces.mesh, faces.box, strict=True):
        choice = -1
        if bodies is not None:
            gap = np.linalg.norm(bodies.points[:, HEAD].mean(1) - mesh[:468, :2].mean(0), axis=1)
            gap[list(used)] = np.inf
            gap[bodies.flag < BODY_LEAST] = np.inf
            best = int(np.argmin(gap))
            if gap[best] < 0.6 * (box[2:] - box[:2]).max():
                choice = best
                used.add(best)
        own.append(choice)
    alone = [i for i, choice in enumerate(own) if choice < 0]
    guessed = None
    if alone:
        part = Faces(faces.mesh[alone], faces.presence[alone], faces.box[alone])
        guessed = _bodies(picture, _below(part))
    people = []
    for i, choice in enumerate(own):
        source = bodies if choice >= 0 else guessed
        k = choice if choice >= 0 else alone.index(i)
        assert source is not None
        people.append(_person(picture, source, k, faces.mesh[i], float(faces.presence[i]), faces.box[i]))
    if bodies is not None:
        for k in range(len(bodies.flag)):
            shoulders = (bodies.visibility * bodies.presence)[k, SHOULDERS].min()
            if k not in used and min(bodies.flag[k], shoulders) > LONE_BODY_LEAST:
                centre, side = _heads(bodies)[k, :2], _heads(bodies)[k, 2] / 3.5
                box = np.concatenate([centre - side / 2, centre + side / 2])
                if not any(_inside(centre, p.box) for p in people):
                    people.append(_person(picture, bodies, k, np.zeros((478, 3)), 0.0, box))
    return people


def _inside(point: np.ndarray, box: np.ndarray) -> bool:
    return bool(((point >= box[:2]) & (point <= box[2:])).all())


def _person(
    picture: Picture, bodies: Bodies, k: int, face: np.ndarray, presence: float, box: np.ndarray
) -> Person:
    pose = bodies.points[k]
    inside = ((pose >= 0) & (pose < [picture.width, picture.height])).all(1)
    visibility = bodies.visibility[k] * bodies.presence[k] * inside * (bodies.flag[k] > BODY_LEAST)
    hands, hand_presence = find_hands(picture, pose, visibility, bodies.world[k])
    turn = 0
    if presence > 0:
        line = face[EYE_L, :2] - face[EYE_R, :2]
        turn = _turn(float(np.arctan2(line[1], line[0])))
    return Person(
        face, presence, pose, visibility, bodies.world[k], hands, hand_presence, np.asarray(box, float), turn
    )


def person_mask(image: np.ndarray) -> np.ndarray:
    """Picture (H,W,3) uint8 -> how surely each pixel shows a person, (H,W) float32 in [0,1]."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)
    (mask,) = load_graph("selfie")(torch.from_numpy(small)[None].float() / 255)
    whole_size = cv2.resize(mask[0, :, :, 0].numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    return whole_size.clip(0, 1).astype(np.float32)
