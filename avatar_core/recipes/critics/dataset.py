"""Data of the critics: procedural people of the namespace "critics", rendered once into a folder outside git.

Per person one folder of .npy arrays: uint8 images over flat grey with their coverage, pose and camera, and the
true keypoints in pixels:

* `talk_*`   (75 frames, 192 px) face close-up of one spoken sentence, with its log-mel: lips, sync, clips
* `face_*`   (28, 192 px) face close-ups with random expressions and head turns
* `body_*`   (30, 256 px) whole person in all framings, random gestures
* `scene_*`  (16, 160 px) a waist-up gesture sequence for the clip features
* `hand_*`   (20, 112 px) hand close-ups (left hands are mirrored when read)

Every eighth person is held out: no net sees them before it is measured.

Legend: T frames, K keypoints of `avatar_core.template.landmarks.KEYPOINTS`, S pixels.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_core.errors import UserError
from avatar_core.recipes.critics.render_person import FLAT, KINDS, label_person, render_person

SCHEMA = 1
SCRIPTS = Path(__file__).resolve().parents[3] / "data" / "scripts"
__all__ = ["FLAT", "Dataset", "label_people", "render_people"]


class _Writer:
    """Collects one person's frames of each kind, then writes the folder in one go."""

    def __init__(self) -> None:
        self.arrays: dict[str, list[NDArray]] = {}

    def add(self, kind: str, record: dict[str, NDArray]) -> None:
        for name, value in record.items():
            self.arrays.setdefault(f"{kind}_{name}", []).append(value)

    def save(self, folder: Path, more: dict[str, NDArray]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in self.arrays.items():
            np.save(folder / f"{name}.npy", np.stack(values), allow_pickle=False)
        for name, value in more.items():
            np.save(folder / f"{name}.npy", value, allow_pickle=False)


def render_people(root: Path, first: int, last: int, *, seed: int) -> None:
    """Render identities first..last-1 of the namespace "critics" into `root`; finished ones are left alone."""
    from avatar_core.procedural.people import sample_identities
    from avatar_core.speech import load_scripts

    root.mkdir(parents=True, exist_ok=True)
    lines = [line for line in load_scripts(SCRIPTS) if line.split == "critics"]
    identities = sample_identities(last, seed, "critics")
    began = time.time()
    for number in range(first, last):
        folder = root / f"p{number:03d}"
        if (folder / "meta.json").exists():
            continue
        writer = _Writer()
        more = render_person(identities[number], lines, np.random.default_rng([seed, number]), writer.add)
        writer.save(folder, {k: v for k, v in more.items() if isinstance(v, np.ndarray)})
        meta = {k: v for k, v in more.items() if not isinstance(v, np.ndarray)}
        meta |= {"schema": SCHEMA, "seed": seed, "number": number}
        (folder / "meta.json").write_text(json.dumps(meta, indent=1, sort_keys=True))
        pace = (time.time() - began) / (number - first + 1)
        print(f"person {number} done, {pace:.1f} s each, eta {pace * (last - number - 1):.0f} s", flush=True)


def label_people(root: Path) -> None:
    """Keypoints of the rendered people that have none yet, from their stored poses and cameras; about 1 s a person."""
    from avatar_core.procedural.people import Identity

    folders = sorted(p.parent for p in Path(root).glob("p*/meta.json"))
    folders = [f for f in folders if not (f / "hand_xy.npy").exists()]
    meta = [json.loads((f / "meta.json").read_text()) for f in folders]
    for folder, facts in zip(folders, meta, strict=True):
        arrays = {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in folder.glob("*.npy")}
        identity = Identity(facts["identity"], facts["identity_seed"], facts["attributes"])
        for name, value in label_person(identity, arrays).items():
            np.save(folder / f"{name}.npy", value, allow_pickle=False)
        print(folder.name, "labelled", flush=True)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rendered people, memory-mapped. `train` and `held_out` are tuples of folders."""

    root: Path
    train: tuple[Path, ...]
    held_out: tuple[Path, ...]
    arrays: dict[Path, dict[str, NDArray]]
    meta: dict[Path, dict[str, Any]]

    @staticmethod
    def open(root: Path, people: int = 0) -> Dataset:
        """The first `people` rendered and labelled people (0: all). Raises UserError when there are fewer."""
        folders = sorted(p.parent for p in Path(root).glob("p*/hand_xy.npy"))
        if len(folders) < max(people, 8):
            raise UserError(
                f"{root}: expected {max(people, 8)} labelled people (run `data` and `labels` first), found {len(folders)}"
            )
        folders = folders[: people or None]
        arrays = {
            f: {p.stem: np.load(p, mmap_mode="r", allow_pickle=False) for p in f.glob("*.npy")}
            for f in folders
        }
        meta = {f: json.loads((f / "meta.json").read_text()) for f in folders}
        held_out = tuple(f for f in folders if meta[f]["number"] % 8 == 7)
        return Dataset(Path(root), tuple(f for f in folders if f not in held_out), held_out, arrays, meta)

    def recipe(self) -> dict[str, Any]:
        """What the sidecar says of the data."""
        first = self.meta[self.train[0]]
        return {
            "script": "python -m avatar_core.recipes.critics.train data",
            "seed": first["seed"],
            "namespace": "critics",
            "people_train": [f.name for f in self.train],
            "people_held_out": [f.name for f in self.held_out],
            "frames_per_person": {kind: count for kind, (count, _) in KINDS.items()},
        }
