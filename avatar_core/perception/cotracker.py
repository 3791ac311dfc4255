"""Point tracks by CoTracker3 (offline), from a local file; seeds and re-seeding as `optical_flow` has them.

Meta publishes its code in a repository, not in a package index, and its weights as a pickle. Two ways in:

* .safetensors: the weights of `scaled_offline.pth`, saved once where you trust it; needs the package `cotracker` of the repository;
* .pt: TorchScript with the predictor's interface, video (1,T,3,H,W) in 0..255 and queries (1,P,3) of frame, x, y in pixels ->
  tracks (1,T,P,2) and which are visible (1,T,P).

Legend: T frames, H W pixels, P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from avatar_core.config import one_of, ranged
from avatar_core.errors import UserError
from avatar_core.models.card import Card, failures
from avatar_core.models.files import check_safetensors
from avatar_core.models.weights import DEVICES, checked_file, find_file
from avatar_core.perception.tracks import seed_points

if TYPE_CHECKING:
    from torch import Tensor

REPOSITORY = "https://github.com/facebookresearch/co-tracker"
WINDOW = 60  # frames, of the offline model


@dataclass(frozen=True)
class CoTracker:
    """path, sha256: the file; points: seeds of a round; reseed_every: frames between rounds; spacing: least distance in px.

    Rounds do not know of each other: what several seed is followed several times.
    """

    where: ClassVar[str] = "perception.cotracker"
    path: str = ""
    sha256: str = ""
    points: int = ranged(160, 8, 4096)
    reseed_every: int = ranged(24, 1)
    spacing: float = ranged(6.0, 1)
    device: str = one_of("cpu", *DEVICES)

    @property
    def card(self) -> Card:
        return Card(
            "facebook/cotracker3", "CC BY-NC 4.0", "no", "weights and code for non-commercial use alone", revision=self.sha256,
            url=REPOSITORY,
        )  # fmt: skip

    def folders(self) -> dict[Path, str]:
        """See `models.card.Published`."""
        return {find_file(*self._file): self.sha256}

    def lacking(self) -> list[str]:
        """See `models.card.Published`."""
        return failures(self.folders, self._check_package)

    def track(self, frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """See `backends.PointTracker`. A track lives from its seed on, as long as it is seen on the person."""
        import torch

        predict = _load(checked_file(*self._file), self.sha256, self.device)
        video = (
            torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)[None].float().to(self.device)
        )
        queries, rounds = [], range(0, max(1, len(frames) - 1), self.reseed_every)
        for t in (
            rounds
        ):  # each round sees the clip anew: a point is followed from its seed, not from where others are
            gray = cv2.cvtColor(frames[t], cv2.COLOR_RGB2GRAY)
            core = cv2.erode(masks[t], np.ones((5, 5), np.uint8))
            seeds = seed_points(gray, core, np.zeros((0, 2), np.float32), self.points, self.spacing)
            queries.append(np.concatenate([np.full((len(seeds), 1), t, np.float32), seeds - 0.5], 1))
        asked = np.concatenate(queries)
        if not len(asked):
            return np.zeros((len(frames), 0, 2), np.float32)
        with torch.no_grad():
            found, seen = predict(video, torch.from_numpy(asked)[None].float().to(self.device))
        tracks, alive = (
            self._checked(found, len(frames), len(asked), 2),
            self._checked(seen, len(frames), len(asked), 0),
        )
        tracks = tracks.astype(np.float32) + 0.5  # ours have the first pixel's centre at 0.5
        alive = (alive > 0.5) & (np.arange(len(frames))[:, None] >= asked[:, 0]) & _on(masks, tracks)
        alive = np.logical_and.accumulate(alive | (np.arange(len(frames))[:, None] < asked[:, 0]), 0) & alive
        tracks[~alive] = np.nan
        return tracks[:, alive.sum(0) >= 2]

    def _checked(self, value: Tensor, frames: int, points: int, last: int) -> np.ndarray:
        wanted = (1, frames, points, *([last] if last else []))
        if tuple(value.shape) != wanted:
            raise UserError(f"{self.path}: expected a tensor {wanted}, found {tuple(value.shape)}")
        return value[0].float().cpu().numpy()

    def _check_package(self) -> None:
        if self.path.endswith(".safetensors") and find_spec("cotracker") is None:
            raise UserError(
                f"{self.where}: expected the package cotracker, found none; pip install 'cotracker @ git+{REPOSITORY}'"
            )

    @property
    def _file(self) -> tuple[str, str, str, str]:
        return (
            self.path,
            self.sha256,
            f"{self.where}.path",
            "CoTracker3 as .safetensors or as TorchScript .pt",
        )


def _on(masks: np.ndarray, tracks: np.ndarray) -> np.ndarray:
    """Which of the tracks (T,P,2) lie on the masks (T,H,W)."""
    height, width = masks.shape[1:]
    at = np.floor(np.nan_to_num(tracks, nan=-1.0, posinf=-1, neginf=-1)).astype(int)
    inside = ((at >= 0) & (at < [width, height])).all(-1)
    column, row = at[..., 0].clip(0, width - 1), at[..., 1].clip(0, height - 1)
    return inside & (masks[np.arange(len(masks))[:, None], row, column] > 0)


@lru_cache(maxsize=1)
def _load(file: Path, sha256: str, device: str) -> Any:
    """The predictor of a file with that hash on a device. Raises UserError: damaged, or another model's."""
    import torch

    try:
        if file.suffix != ".safetensors":
            return torch.jit.load(str(file), map_location=device).eval()
        check_safetensors(file)
        from cotracker.predictor import CoTrackerPredictor  # pyright: ignore[reportMissingImports]
        from safetensors.torch import load_file

        predictor = CoTrackerPredictor(checkpoint=None, window_len=WINDOW)
        predictor.model.load_state_dict(load_file(str(file)))
        return predictor.eval().to(device)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{file}: expected CoTracker3, found: {' '.join(str(error).split())[:200]}") from None
