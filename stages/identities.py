"""Stage 1, identities: sampled people, split by person into train, val and test, and one portrait of each.

Writes `identities.json` (who they are), `catalog.parquet` (one row a person) and `portraits/<id>.png`.
Backends: `procedural` renders sampled people, `folder` takes photos, one file a person.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from avatar_core.errors import UserError
from avatar_core.io.atomic import sha256_file, write_json
from avatar_core.io.catalog import write_catalog
from avatar_core.io.images import contact_sheet, read_image, write_png
from avatar_core.procedural.people import (
    Person,
    framing_camera,
    neutral_face,
    relaxed_pose,
    sample_identities,
)
from stages.artifacts import PersonRecord
from stages.common import Stage, run_stage

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def main(stage: Stage) -> None:
    """Sample people and make one portrait of each."""
    out = stage.fresh(stage.out)
    params = stage.params.identities
    splits = ["train"] * params.train + ["val"] * params.val + ["test"] * params.test
    if params.backend == "folder":
        sources: list[Any] = _photos(Path(params.folder), len(splits))
        names = [_photo_id(path) for path in sources]
        seeds, attributes = [0] * len(splits), [{} for _ in splits]
    else:
        sources = sample_identities(len(splits), stage.seed, "identities")
        names = [identity.id for identity in sources]
        seeds = [identity.seed for identity in sources]
        attributes = [identity.attributes for identity in sources]
    if len(set(names)) != len(names):
        raise UserError(f"{params.folder}: expected one photo a person, found the same picture twice")
    shards = len(stage.params.run.shards)
    people = [
        PersonRecord(name, split, k % shards, seed, about)
        for k, (name, split, seed, about) in enumerate(zip(names, splits, seeds, attributes, strict=True))
    ]
    items = [
        (source, params.portrait_size, out / "portraits" / f"{p.id}.png")
        for source, p in zip(sources, people, strict=True)
    ]
    portraits = stage.map(_portrait, items, "portrait")
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
            }
            for p, (path, qc) in zip(people, portraits, strict=True)
        ],
    )
    captions = [f"{p.id} ({p.split})\n{_describe(p.attributes)}" for p in people]
    images = [read_image(path) for path, _ in portraits]
    contact_sheet(
        stage.reports / "contact_sheet.png", images, captions, columns=5, cell=288, title="identities"
    )
    stage.write_metrics(
        {
            "train": params.train,
            "val": params.val,
            "test": params.test,
            "foreground_share": float(np.mean([qc["foreground_share"] for _, qc in portraits]))
            if params.backend == "procedural"
            else None,
        },
        headline=("train", "val", "test"),
    )


def _portrait(item: tuple[Any, int, Path]) -> tuple[Path, dict[str, float]]:
    source, size, path = item
    if isinstance(source, Path):
        image, qc = read_image(source, min_side=256), {}
    else:
        person = Person.build(source)
        camera = framing_camera(person.vertices(None, relaxed_pose(), None), "portrait", size)
        image, alpha = person.render(neutral_face(), relaxed_pose(), np.zeros(3), camera, supersample=2)
        qc = {"foreground_share": float((alpha > 127).mean())}
    write_png(path, image)
    return path, qc


def _photos(folder: Path, count: int) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"identities.folder: expected a folder of portraits, found {folder}")
    photos = sorted(p for p in folder.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES)
    if len(photos) < count:
        raise UserError(f"{folder}: expected {count} photos (train + val + test), found {len(photos)}")
    return photos[:count]


def _photo_id(path: Path) -> str:
    return f"photo-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def _describe(attributes: dict[str, Any]) -> str:
    if not attributes:
        return "photo"
    return f"{attributes['sex']}, {attributes['age']:.0f}, {attributes['build']}, {attributes['skin_tone']}"


if __name__ == "__main__":
    run_stage("identities", main)
