"""Stage 1, identities: people, split by person into train, val and test, and one portrait of each.

Writes `identities.json` (who they are), `catalog.parquet` (one row a person) and `portraits/<id>.png`.
Who they are and what they look like comes from a backend: `avatar_core.identities`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from avatar_core.identities import IdentityBackend, NewPerson, PortraitModel
from avatar_core.io.atomic import sha256_file, write_json
from avatar_core.io.catalog import write_catalog
from avatar_core.io.images import contact_sheet, read_image, write_png
from stages.artifacts import PersonRecord
from stages.common import Stage, run_stage


def main(stage: Stage) -> None:
    """Find the people and make one portrait of each."""
    out = stage.fresh(stage.out)
    params = stage.params.identities
    splits = ["train"] * params.train + ["val"] * params.val + ["test"] * params.test
    found = params.source.people(len(splits), stage.seed)
    shards = len(stage.params.run.shards)
    people = [
        PersonRecord(person.id, split, k % shards, person.seed, person.attributes)
        for k, (person, split) in enumerate(zip(found, splits, strict=True))
    ]
    source, model = params.source, {}
    if isinstance(source, PortraitModel):
        portraits, model = _drawn(stage, source, found, out / "portraits"), source.card.row
    else:
        items = [(source, p, params.portrait_size, out / "portraits" / f"{p.id}.png") for p in found]
        # The first one here: what has to be compiled for it is compiled once, and not by every worker.
        portraits = [_portrait(item) for item in items[:1]] + stage.map(_portrait, items[1:], "portrait")
    write_json(out / "identities.json", [vars(p) for p in people])
    write_catalog(
        out / "catalog.parquet",
        [
            {
                "id": p.id,
                "identity": p.id,
                "split": p.split,
                "shard": p.shard,
                "framing": "portrait",
                "backend": params.backend,
                "sha256": sha256_file(path),
                "qc": qc,
                **model,
            }
            for p, (path, qc) in zip(people, portraits, strict=True)
        ],
    )
    captions = [f"{p.id} ({p.split})\n{_describe(p.attributes)}" for p in people]
    images = [read_image(path) for path, _ in portraits]
    contact_sheet(
        stage.reports / "contact_sheet.png", images, captions, columns=5, cell=288, title="identities"
    )
    shares = [qc["foreground_share"] for _, qc in portraits if "foreground_share" in qc]
    stage.write_metrics(
        {
            "train": params.train,
            "val": params.val,
            "test": params.test,
            "foreground_share": float(np.mean(shares)) if shares else None,
        },
        headline=("train", "val", "test"),
    )


def _portrait(item: tuple[IdentityBackend, NewPerson, int, Path]) -> tuple[Path, dict[str, float]]:
    backend, person, size, path = item
    image, qc = backend.portrait(person, size)
    write_png(path, image)
    return path, qc


def _drawn(
    stage: Stage, source: PortraitModel, people: list[NewPerson], folder: Path
) -> list[tuple[Path, dict[str, float]]]:
    """Portraits by a published model; what a killed run has drawn is not drawn again."""
    scratch = stage.scratch()
    kept = {p.id: (scratch / f"{p.id}.png", scratch / f"{p.id}.json") for p in people}
    todo = [p for p in people if not kept[p.id][1].is_file()]
    with stage.progress(len(todo), "portrait") as bar:
        for person, image, qc in source.portraits(todo, stage.compute) if todo else ():
            write_png(kept[person.id][0], image)
            write_json(kept[person.id][1], qc)
            bar.advance()
    folder.mkdir()
    done = []
    for picture, numbers in kept.values():
        path = folder / picture.name
        shutil.copyfile(picture, path)
        done.append((path, json.loads(numbers.read_text())))
    return done


def _describe(attributes: dict[str, Any]) -> str:
    if not attributes:
        return "photo"
    about = (attributes.get(name) for name in ("sex", "age", "build", "skin_tone"))
    return ", ".join(f"{a:.0f}" if isinstance(a, float) else str(a) for a in about if a is not None)


if __name__ == "__main__":
    run_stage("identities", main)
