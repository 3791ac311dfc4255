"""Recipe of the keypoint map: `python -m avatar_core.recipes.keypoint_map FOLDER [--people 0 1 2 ...]`.

Run once by a maintainer. Renders people into FOLDER, looks at them with the nets, and solves for each keypoint the affine
combination of a few of their points that lies nearest to the truth: least squares with a pull towards the table made by hand.
Every fourth person is held out and measured only. Writes avatar_core/assets/keypoint_map.safetensors with its sidecar.

Legend: N pictures, S sources, K keypoints.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from avatar_core.io.checkpoints import save_checkpoint
from avatar_core.recipes.keypoint_map.samples import SEED, collect, read
from avatar_core.recipes.keypoint_map.table import BODY, FACE, SOURCES, start, supports
from avatar_core.template.landmarks import FACE_POINTS, KEYPOINT_INDEX, KEYPOINTS, indices

ASSETS = Path(__file__).resolve().parents[2] / "assets"
PEOPLE = [*range(8), *range(12, 19)]
NEAR = 14  # mesh points from which a face keypoint may be made
PULL = {"face": 0.3, "body": 3.0, "hand": 1.0}  # towards the table, per 1000 rows of unit variance
OUTLIER = 3.0  # rows whose residual is so many times the median are mistaken looks

Data = dict[str, np.ndarray]


def _joined(people: list[Data]) -> Data:
    return {k: np.concatenate([p[k] for p in people]).astype(np.float64) for k in people[0]}


def _kind(name: str) -> str:
    return "face" if name in FACE_POINTS else "hand" if name.startswith("hand.") else "body"


def _scale(data: Data) -> np.ndarray:
    """Length (N,) in pixels that errors are shares of: between the outer corners of the eyes."""
    ends = [KEYPOINT_INDEX[f"eyelids.outer.{s}"] for s in "LR"]
    truth = data["truth"][:, ends]
    bridge = data["truth"][:, KEYPOINT_INDEX["nose.bridge"]] - data["truth"][:, KEYPOINT_INDEX["jaw.chin"]]
    return np.maximum(np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1), 0.8 * np.linalg.norm(bridge, axis=1))


def _front(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Mean mesh (478,2) and mean true keypoints (K,2) of close pictures, over their scale."""
    close = (data["close"] > 0) & (data["trust"][:, 0] > 0.9)
    centre = data["truth"][close][:, [KEYPOINT_INDEX["nose.bridge"]]]
    scale = _scale(data)[close][:, None, None]
    return (
        np.median((data["sources"][close][:, :FACE] - centre) / scale, 0),
        np.median((data["truth"][close] - centre) / scale, 0),
    )


def _rows(data: Data, k: int, support: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Support points (N,P,2) and the true keypoint (N,2) over the scale, of pictures that show it; which those are."""
    name = KEYPOINTS[k]
    seen = (data["inside"][:, k] > 0) & (data["trust"][:, support].min(1) > 0.5)
    if _kind(name) == "face":
        seen &= data["close"] > 0
    scale = _scale(data)[seen, None]
    return data["sources"][seen][:, support] / scale[..., None], data["truth"][seen, k] / scale, seen


def solve(data: Data, table: np.ndarray) -> np.ndarray:
    """Weights (K,S), each row summing to 1."""
    mesh, truth = _front(data)
    chosen, weights = supports(), table.copy()
    for k, name in enumerate(KEYPOINTS):
        support = list(chosen.get(name, []))
        if _kind(name) == "face":
            support = list(np.argsort(np.linalg.norm(mesh - truth[k], axis=1))[:NEAR])
        support = [int(i) for i in dict.fromkeys([*np.flatnonzero(table[k]), *support])]
        points, target, seen = _rows(data, k, support)
        if seen.sum() < 20:
            continue
        # Over the differences to the first point the weights sum to 1 by construction; the table is where they start.
        design = (points[:, 1:] - points[:, :1]).transpose(0, 2, 1).reshape(-1, len(support) - 1)
        known = table[k, support]
        rest = (target - np.einsum("npc,p->nc", points, known)).reshape(-1)
        keep = np.ones(len(rest), bool)
        pull = PULL[_kind(name)] * len(rest) / 1000 * np.mean(design**2) * np.eye(design.shape[1])
        change = np.zeros(design.shape[1])
        for _ in range(3):
            change = np.linalg.solve(design[keep].T @ design[keep] + pull, design[keep].T @ rest[keep])
            left = np.linalg.norm((rest - design @ change).reshape(-1, 2), axis=1)
            keep = np.repeat(left < OUTLIER * np.median(left) + 1e-9, 2)
        weights[k, support] = known + np.concatenate([[-change.sum()], change])
    return weights


def errors(data: Data, weights: np.ndarray) -> dict[str, float]:
    """Median distance to the truth by group, in % of the width between the outer corners of the eyes."""
    out = {}
    groups = {
        g: indices(g + ".") for g in ("lips_outer", "lips_inner", "eyelids", "iris", "brows", "nose", "jaw")
    }
    groups |= {"hands": indices("hand."), "body": np.arange(17)}
    for group, members in groups.items():
        found = []
        for k in members:
            points, target, _ = _rows(data, int(k), [int(i) for i in np.flatnonzero(weights[k])])
            made = np.einsum("npc,p->nc", points, weights[k][np.flatnonzero(weights[k])])
            found.append(np.linalg.norm(made - target, axis=1))
        out[group] = float(100 * np.median(np.concatenate(found)))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Learn the map from MediaPipe's points to the template's keypoints."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, nargs="+", default=PEOPLE)
    parser.add_argument("--out", type=Path, default=ASSETS)
    given = parser.parse_args()
    collect(given.folder, given.people)
    people = read(given.folder, given.people)
    train = _joined([p for i, p in enumerate(people) if i % 4 != 3])
    held_out = _joined([p for i, p in enumerate(people) if i % 4 == 3])
    table = start(*_front(train))
    weights = solve(train, table)
    before, after = errors(held_out, table), errors(held_out, weights)
    for group in after:
        print(f"{group:12s} table {before[group]:5.2f}%  learnt {after[group]:5.2f}%")
    most = int((weights != 0).sum(1).max())
    order = np.argsort(-np.abs(weights), axis=1, kind="stable")[:, :most]
    amounts = np.take_along_axis(weights, order, 1).astype(np.float32)
    config = {
        "sources": SOURCES,
        "body_first": BODY,
        "people": given.people,
        "held_out_error_percent": after,
        "table_error_percent": before,
    }
    save_checkpoint(
        given.out / "keypoint_map.safetensors",
        {"index": order.astype(np.int32), "weight": amounts},
        config=config,
        seed=SEED,
    )


if __name__ == "__main__":
    main()
