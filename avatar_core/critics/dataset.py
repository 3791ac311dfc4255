"""Data of the critics: procedural people of the namespace "critics", rendered once into a folder outside git.

Per person one folder of .npy arrays (uint8 images over flat grey with their coverage, true keypoints in pixels):

* `talk_*`   (64 frames, 160 px) face close-up of one spoken sentence, with its log-mel: lips, sync, clips
* `face_*`   (28, 160 px) face close-ups with random expressions and head turns
* `body_*`   (30, 256 px) whole person in all framings, random gestures
* `scene_*`  (16, 160 px) a waist-up gesture sequence for the clip features
* `hand_*`   (20, 112 px) hand close-ups (left hands are mirrored when read)

The last eighth of the people is held out: no net sees them before it is measured.

Legend: T frames, K keypoints of `avatar_core.template.landmarks.KEYPOINTS`, S pixels, B bones, J joints.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_core.critics.poses import random_body, random_expression, random_head
from avatar_core.errors import UserError
from avatar_core.geometry.camera import Camera

FLAT = 128  # grey level behind the people
KINDS = {"talk": (64, 160), "face": (28, 160), "body": (30, 256), "scene": (16, 160), "hand": (20, 112)}
SCHEMA = 1


def turn_camera(camera: Camera, pivot: NDArray, yaw: float, pitch: float, roll: float) -> Camera:
    """Camera seen after turning the world round `pivot` (3,): yaw about Z, pitch about X, roll about Y, radians."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("zxy", [yaw, pitch, roll]).as_matrix()
    world = np.eye(4)
    world[:3, :3] = turn
    world[:3, 3] = pivot - turn @ pivot
    return dataclasses.replace(camera, viewmat=(camera.viewmat @ world).astype(np.float32))


def shake_camera(camera: Camera, pivot: NDArray, rng: np.random.Generator, turn: float, shift: float) -> Camera:
    """Random turn (radians) and framing (share of the image) of a camera."""
    camera = turn_camera(
        camera, pivot, rng.uniform(-turn, turn), rng.uniform(-turn, turn) / 3, rng.uniform(-turn, turn) / 4
    )
    zoom = np.exp(rng.uniform(-shift, shift))
    dx, dy = rng.uniform(-shift, shift, 2)
    w, h = camera.width, camera.height
    change = np.array([[zoom, 0, w * (0.5 - 0.5 * zoom + dx)], [0, zoom, h * (0.5 - 0.5 * zoom + dy)], [0, 0, 1]])
    return dataclasses.replace(camera, K=(change @ camera.K).astype(np.float32))


def crop_to(camera: Camera, points: NDArray, size: int, margin: float) -> Camera:
    """Camera whose size x size image is the square round the projected points (P,3) with a margin factor."""
    xy, _ = camera.project(points)
    low, high = xy.min(0), xy.max(0)
    side = float(max((high - low).max(), 4.0)) * margin
    x0, y0 = (low + high) / 2 - side / 2
    scale = size / side
    change = np.array([[scale, 0, -x0 * scale], [0, scale, -y0 * scale], [0, 0, 1]])
    return dataclasses.replace(camera, K=(change @ camera.K).astype(np.float32), width=size, height=size)


class _Writer:
    """Collects one person's frames of each kind, then writes the folder in one go."""

    def __init__(self) -> None:
        self.arrays: dict[str, list[NDArray]] = {}

    def add(self, kind: str, rgb: NDArray, alpha: NDArray, xy: NDArray, extra: dict[str, NDArray]) -> None:
        for name, value in {"rgb": rgb, "alpha": alpha, "xy": xy.astype(np.float32), **extra}.items():
            self.arrays.setdefault(f"{kind}_{name}", []).append(np.asarray(value))

    def save(self, folder: Path, more: dict[str, NDArray]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in self.arrays.items():
            np.save(folder / f"{name}.npy", np.stack(values), allow_pickle=False)
        for name, value in more.items():
            np.save(folder / f"{name}.npy", value, allow_pickle=False)


def render_people(root: Path, first: int, last: int, *, seed: int) -> None:
    """Render identities first..last-1 of the namespace "critics" into `root`; finished ones are left alone."""
    from avatar_core.critics.render_person import render_person
    from avatar_core.people import sample_identities

    root.mkdir(parents=True, exist_ok=True)
    identities = sample_identities(last, seed, "critics")
    began = time.time()
    for number in range(first, last):
        folder = root / f"p{number:03d}"
        if (folder / "meta.json").exists():
            continue
        writer = _Writer()
        more = render_person(identities[number], np.random.default_rng([seed, number]), writer.add)
        writer.save(folder, {k: v for k, v in more.items() if isinstance(v, np.ndarray)})
        meta = {k: v for k, v in more.items() if not isinstance(v, np.ndarray)}
        meta |= {"schema": SCHEMA, "seed": seed, "number": number}
        (folder / "meta.json").write_text(json.dumps(meta, indent=1, sort_keys=True))
        done = number - first + 1
        pace = (time.time() - began) / done
        print(f"person {number} done, {pace:.1f} s each, eta {pace * (last - number - 1):.0f} s", flush=True)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rendered people, memory-mapped. `train` and `held_out` are tuples of folders."""

    root: Path
    train: tuple[Path, ...]
    held_out: tuple[Path, ...]
    arrays: dict[Path, dict[str, NDArray]]
    meta: dict[Path, dict[str, Any]]

    @staticmethod
    def open(root: Path) -> Dataset:
        """Raises UserError when `root` holds no rendered people."""
        folders = sorted(p.parent for p in Path(root).glob("p*/meta.json"))
        if len(folders) < 4:
            raise UserError(f"{root}: expected rendered people (run `train data` first), found {len(folders)}")
        arrays = {f: {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in f.glob("*.npy")} for f in folders}
        meta = {f: json.loads((f / "meta.json").read_text()) for f in folders}
        cut = len(folders) - max(2, len(folders) // 8)
        return Dataset(Path(root), tuple(folders[:cut]), tuple(folders[cut:]), arrays, meta)

    def recipe(self) -> dict[str, Any]:
        """What the sidecar says of the data."""
        first = self.meta[self.train[0]]
        return {
            "script": "python -m avatar_core.critics.train data",
            "seed": first["seed"],
            "namespace": "critics",
            "people_train": [f.name for f in self.train],
            "people_held_out": [f.name for f in self.held_out],
            "frames_per_person": {kind: count for kind, (count, _) in KINDS.items()},
        }
