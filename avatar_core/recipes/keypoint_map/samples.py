"""What the nets see on renders of procedural people of the namespace "keypoint-map", with the true keypoints.

Legend: N pictures, S sources (478 face, 33 body, 21 left, 21 right hand), K keypoints.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from avatar_core.perception.holistic.people import Person as Found
from avatar_core.perception.holistic.people import find_people
from avatar_core.procedural.people import Person, framing_camera, sample_identities
from avatar_core.procedural.performance import ARKIT_NAMES, BONE_INDEX
from avatar_core.recipes.critics.cameras import shake_camera
from avatar_core.recipes.critics.poses import random_body, random_expression, random_head
from avatar_core.template.landmarks import keypoints_from_vertices

SEED = 11
FACES, BODIES = 9, 7  # pictures a person
SIZES = {"face": (256, 448), "waist_up": (512, 768), "full_body": (640, 896)}


def _backdrop(rng: np.random.Generator, size: int) -> np.ndarray:
    """A soft backdrop (size,size,3): blobs of colour, as rooms are out of focus."""
    coarse = torch.from_numpy(rng.random((1, 3, 5, 5), np.float32))
    field = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    return field[0].permute(1, 2, 0).clamp(0, 1).numpy()


def _pose(rng: np.random.Generator, joints: dict[str, np.ndarray], close: bool) -> np.ndarray:
    out = np.zeros((len(BONE_INDEX), 3), np.float32)
    for name, vector in (random_head(rng, 1.2) if close else random_body(rng, joints)).items():
        if name in BONE_INDEX:
            out[BONE_INDEX[name]] = vector
    return out


def _sources(found: Found) -> tuple[np.ndarray, np.ndarray]:
    """Points (S,2) and how surely they are seen (S,)."""
    hands = [found.hands.get(side, np.zeros((21, 3)))[:, :2] for side in "LR"]
    trust = [np.full(21, found.hand_presence.get(side, 0.0)) for side in "LR"]
    xy = np.concatenate([found.face[:, :2], found.pose, *hands])
    return xy, np.concatenate([np.full(478, found.face_presence), found.pose_visibility, *trust])


def sample_person(number: int, seed: int = SEED) -> dict[str, np.ndarray]:
    """Arrays of one person: sources (N,S,2), trust (N,S), truth (N,K,2), inside (N,K), size (N,), close (N,)."""
    identity = sample_identities(number + 1, seed, "keypoint-map")[number]
    person = Person.build(identity)
    rng = np.random.default_rng([seed, number])
    rest, joints = person.vertices(), person.joints()
    head = joints["head"] + [0.0, -0.06, 0.08]
    rows: dict[str, list] = {k: [] for k in ("sources", "trust", "truth", "inside", "size", "close")}
    for k in range(FACES + BODIES):
        close = k < FACES
        framing = "face" if close else ("waist_up", "waist_up", "full_body")[k % 3]
        size = int(rng.choice(SIZES[framing]))
        pivot = head if close else np.array([0.0, 0.0, head[2] - 0.35])
        camera = shake_camera(framing_camera(rest, framing, size), pivot, rng, 0.45, 0.1)
        weights = random_expression(rng, ARKIT_NAMES)
        pose, move = _pose(rng, joints, close), np.zeros(3, np.float32)
        picture, _ = person.render(
            weights, pose, move, camera, supersample=2, background=_backdrop(rng, size)
        )
        truth = keypoints_from_vertices(person.vertices(weights, pose, move), person.joints(pose, move))
        xy, _ = camera.project(truth)
        people = find_people(picture)
        if not people:
            continue
        sources, trust = _sources(people[0])
        rows["sources"].append(sources)
        rows["trust"].append(trust)
        rows["truth"].append(xy)
        rows["inside"].append(((xy >= 0) & (xy < size)).all(1))
        rows["size"].append(size)
        rows["close"].append(close)
    return {k: np.array(v, np.float32) for k, v in rows.items()}


def _file(folder: Path, number: int) -> Path:
    return folder / f"p{number:03d}.safetensors"


def collect(folder: Path, numbers: Sequence[int]) -> None:
    """People by number -> folder/pNNN.safetensors; those that are there are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = _file(folder, number)
        if not path.is_file():
            began = time.time()
            save_file(sample_person(number), str(path))
            print(f"person {number}: {time.time() - began:.0f} s", flush=True)


def read(folder: Path, numbers: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """What `collect` wrote, by person."""
    return [load_file(str(_file(folder, number))) for number in numbers]
