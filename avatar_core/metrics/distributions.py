"""Metrics between sets of clips: FID on frames, FVD on windows of 16 frames; both see `frechet`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from avatar_core.metrics.bootstrap import bootstrap
from avatar_core.metrics.clip import FRAME_STEP, Look, Value
from avatar_core.metrics.frechet import frechet_distance
from avatar_core.metrics.networks import Signature
from avatar_core.metrics.reference import Referenced
from avatar_core.perception.warp import as_float

MOST_DRAWS = 200  # of the bootstrap: each is a decomposition
WINDOW = 16  # frames of a clip that FVD sees at once


@dataclass(frozen=True)
class FrechetMetric(Referenced):
    """Features of ours and of the true clips; the value is the distance between the two sets. Subclasses give `features`.

    The interval draws people for both sets at once. Drawing some twice biases the distance upward, so it may lie above the
    value: it says how far the distance depends on who was tested.
    """

    higher_is_better: ClassVar[bool] = False

    def features(self, frames: NDArray, look: Look) -> NDArray:
        raise NotImplementedError

    def measure(self, look: Look) -> tuple[NDArray, NDArray | None]:
        truth = look.clip.truth
        ours = self.features(look.clip.frames, look)
        return ours, None if truth is None else self.features(truth, look)

    def summarise(
        self,
        name: str,
        measured: Sequence[tuple[NDArray, NDArray | None]],
        people: Sequence[str],
        draws: int,
        seed: int,
    ) -> Value:
        pairs = [(ours, truth) for ours, truth in measured if truth is not None]
        note = f"{self.note}; " if self.path else ""
        if (
            not pairs
        ):  # the true clips themselves: every other one against its neighbour, the floor of every other row
            if len(measured) < 2:
                raise ValueError("no ground-truth frames")
            clips = [ours for ours, _ in measured]
            pairs = list(zip(clips[::2], clips[1::2], strict=False))
            people = people[: 2 * len(pairs) : 2]
            note += "floor: half of the true clips against the other half; "

        def distance(chosen: NDArray) -> float:
            sides = zip(*(pairs[int(k)] for k in chosen), strict=True)
            return frechet_distance(*(np.concatenate(side) for side in sides)).value

        sides = zip(*pairs, strict=True)
        result = frechet_distance(*(np.concatenate(side) for side in sides))
        spread = bootstrap(np.arange(len(pairs)), distance, min(draws, MOST_DRAWS), seed, groups=people)
        few = min(result.samples)
        return Value(
            name,
            result.value,
            spread.low,
            spread.high,
            few,
            self.backend,
            "ok",
            (note + result.warning).removesuffix("; "),
        )


class FID(FrechetMetric):
    wanted = "InceptionV3 as pytorch-fid has it: (3,299,299) RGB in [-1,1] -> 2048 numbers"
    signature = Signature((3, 299, 299), (2048,))

    def features(self, frames: NDArray, look: Look) -> NDArray:
        images = frames[::FRAME_STEP]
        if not self.path:
            return look.critics.frame_features(as_float(images))
        from avatar_core.metrics.preprocess import inception_input

        return self.run(look.device)(inception_input(images))[0]


class FVD(FrechetMetric):
    wanted = "I3D of Kinetics-400: (3,16,224,224) RGB in [-1,1] -> 400 numbers"
    signature = Signature((3, WINDOW, 224, 224), (400,))

    def features(self, frames: NDArray, look: Look) -> NDArray:
        if len(frames) < WINDOW:
            raise ValueError(f"clips under {WINDOW} frames")
        if not self.path:
            return look.critics.clip_features(frames)
        from avatar_core.metrics.preprocess import i3d_input

        starts = range(0, len(frames) - WINDOW + 1, WINDOW // 2)
        windows = (i3d_input(frames[s : s + WINDOW]) for s in starts)
        return np.concatenate([self.run(look.device)(window[None])[0] for window in windows])
