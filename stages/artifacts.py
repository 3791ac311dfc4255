"""Where every artifact lies and how it is read: the only module of the pipeline that knows paths and readers.

Stages read through `Artifacts`, call library functions with the values, and write into their own `stage.out`. What it gives are
plain values (arrays, rows, checkpoints): who uses them makes the models, so that no stage depends on code it does not run.

Legend: T frames at 25 fps, N particles, D latents, S samples at 16 kHz.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avatar_core.errors import UserError
from avatar_core.io.audio import read_audio
from avatar_core.io.catalog import read_catalog
from avatar_core.io.images import read_image
from avatar_core.io.rows import Rows
from avatar_core.io.store import Store, Trajectories
from avatar_core.io.video import read_video
from stages.common import Stage

if TYPE_CHECKING:
    from torch import Tensor

MAX_FRAMES = 4000
POSE = (
    "rotvecs",
    "translation",
    "actions",
    "displacement",
)  # of fit.pose.Pose, which loads much that others do not need
Row = dict[str, Any]


@dataclass(frozen=True)
class PersonRecord:
    """A person as the later stages see it. `attributes` is empty for photos; shard = position in the list % shards."""

    id: str
    split: str
    shard: int
    seed: int
    attributes: dict[str, Any]


@lru_cache(maxsize=256)
def _opened(path: Path, kind: type[Any] = Store) -> Any:
    """A finished store, opened (and its manifest checked) once a process."""
    return kind(path)


def latents_in(store: Store, clip: str) -> dict[str, Rows]:
    """What a store holds of a clip for `embed.batches.LatentClip`; takes only where it has any."""
    names = [n for n in ("audio", "takes", "x", "confidence") if n != "takes" or f"takes/{clip}" in store]
    return {name: Rows(store, f"{name}/{clip}") for name in names}


@dataclass(frozen=True)
class Artifacts:
    """The artifacts under `data`, of the shards of this run. Readers raise UserError naming the file."""

    data: Path
    shards: Sequence[int]

    @classmethod
    def of(cls, stage: Stage) -> Artifacts:
        """What the other stages of this stage's run made."""
        return cls(stage.data, stage.params.run.shards)

    # identities

    def people(self) -> list[PersonRecord]:
        """All people, in the order of the list."""
        path = self.data / "identities" / "identities.json"
        if not path.is_file():
            raise UserError(
                f"{path}: expected the list of people, found no such file; run `dvc repro identities`"
            )
        return [PersonRecord(**row) for row in json.loads(path.read_text())]

    def portrait_file(self, identity: str) -> Path:
        """The picture of a person."""
        return self.data / "identities" / "portraits" / f"{identity}.png"

    def portrait(self, identity: str) -> np.ndarray:
        """(H,W,3) in [0,1]."""
        return read_image(self.portrait_file(identity))

    # speech

    def planned_clips(self) -> list[Row]:
        """Catalogue rows of all clips that the teacher is to make."""
        return read_catalog(self.data / "speech" / "catalog.parquet")

    def audio(self, clip: str) -> np.ndarray:
        """(S,) float32."""
        return read_audio(self.data / "speech" / "wav" / f"{clip}.wav")

    def phonemes_file(self, clip: str) -> Path:
        """Text, voice and phoneme times of a clip, for `speech.phonemes_from_json`."""
        return self.data / "speech" / "phonemes" / f"{clip}.json"

    # teacher

    def teacher_clips(self, *splits: str) -> list[Row]:
        """Catalogue rows of the teacher's usable clips of some splits, sorted by id."""
        return self._clips("teacher", splits)

    def video_file(self, row: Row) -> Path:
        """The teacher's video of a clip."""
        return self._shard("teacher", row) / f"{row['id']}.mp4"

    def frames(self, row: Row) -> np.ndarray:
        """The teacher's pictures (T,H,W,3) uint8."""
        return read_video(self.video_file(row), MAX_FRAMES)

    def masks(self, row: Row) -> np.ndarray:
        """Foreground (T,H,W) uint8."""
        return self._store("teacher", row, "aux.zarr").read(f"masks/{row['id']}")

    def tracks(self, row: Row) -> np.ndarray:
        """Point tracks (T,P,2) px, NaN where absent."""
        return self._store("teacher", row, "aux.zarr").read(f"tracks/{row['id']}")

    def truth(self, row: Row) -> tuple[np.ndarray, np.ndarray] | None:
        """Vertex ids (Q,) and positions (T,Q,3) of the true surface; None for teachers that keep none. Only evaluation may."""
        store = _opened(self.data / "truth" / f"shard-{row['shard']}.zarr")
        return (store.read("vertex_ids"), store.read(row["id"])) if row["id"] in store else None

    # score

    def score_windows(self) -> Store:
        """Where the score teacher looks in the clips that it sees, for `crop.read_window`."""
        return _opened(self.data / "score" / "windows.zarr")

    # fit

    def fitted_clips(self, *splits: str) -> list[Row]:
        """Catalogue rows of the fitted clips of some splits that passed quality control, sorted by id."""
        return self._clips("fit", splits)

    def canonical_file(self, row: Row) -> Path:
        """The canonical avatar of a clip's person, for `load_canonical`."""
        return self._shard("fit", row) / "canonical" / f"{row['identity']}.safetensors"

    def trajectory(self, row: Row) -> dict[str, np.ndarray]:
        """A fitted clip's mean_offset, rotation, color (T,N,3) float32 and confidence (T,)."""
        store = _opened(self._shard("fit", row) / "trajectories.zarr", Trajectories)
        arrays = {n: a.astype(np.float32) for n, a in store.read_clip(row["id"]).items()}
        return arrays | {"confidence": arrays["confidence"][:, 0, 0]}

    def pose(self, row: Row) -> dict[str, np.ndarray]:
        """A fitted clip's bones and face actions, for `fit.pose.Pose.of`."""
        store = self._store("fit", row, "poses.zarr")
        return {name: store.read(f"{name}/{row['id']}") for name in POSE}

    def camera(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """viewmat (4,4) and K (3,3) that the fit found for a clip."""
        store = self._store("fit", row, "cameras.zarr")
        return store.read(f"viewmat/{row['id']}"), store.read(f"K/{row['id']}")

    def portrait_distance(self, row: Row) -> float:
        """Metres between the camera and a clip's person in the portrait."""
        return float(self._store("fit", row, "cameras.zarr").read(f"portrait_distance/{row['identity']}")[0])

    # embed

    def log_mel(self, clip: str) -> Rows:
        """Raw log-mel (4T,80) of any clip of the catalogue."""
        return Rows(self._latents, f"log_mel/{clip}")

    def latents(self, clip: str) -> dict[str, Rows]:
        """A fitted clip's x (T,D), confidence (T,), the features audio (4T,M) of its sound, takes (V,4T,M) if there are any."""
        return latents_in(self._latents, clip)

    @property
    def _latents(self) -> Store:
        return _opened(self.data / "embed" / "latents.zarr")

    # networks

    def checkpoint(self, stage: str, name: str) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
        """Tensors and config of `data/<stage>/<name>.safetensors`, for a network's `from_tensors`."""
        from avatar_core.io.checkpoints import load_checkpoint  # torch, which takes seconds

        path = self.data / stage / f"{name}.safetensors"
        tensors, sidecar = load_checkpoint(path, hint=f"run `dvc repro {stage}`")
        return tensors, sidecar["config"]

    def has_checkpoint(self, stage: str, name: str) -> bool:
        """Whether there is one: a stage may have been told to make none."""
        from avatar_core.io.checkpoints import has_checkpoint

        return has_checkpoint(self.data / stage / f"{name}.safetensors")

    @property
    def student_file(self) -> Path:
        """All that speaking needs besides a portrait, for `load_student`."""
        return self.data / "distill" / "student.safetensors"

    def _clips(self, stage: str, splits: Sequence[str]) -> list[Row]:
        folders = [self.data / stage / f"shard-{k}" for k in self.shards]
        rows = [row for folder in folders for row in read_catalog(folder / "catalog.parquet")]
        return sorted(
            (r for r in rows if r["split"] in splits and r["status"] == "ok"), key=lambda r: r["id"]
        )

    def _shard(self, stage: str, row: Row) -> Path:
        return self.data / stage / f"shard-{row['shard']}"

    def _store(self, stage: str, row: Row, name: str) -> Store:
        return _opened(self._shard(stage, row) / name)
