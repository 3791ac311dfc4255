"""Which of the shared keypoints each critic predicts, as indices into `template.landmarks.KEYPOINTS`.

Legend: K keypoints, F face landmarks.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from avatar_core.template import landmarks as L

Index = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Index arrays into `names`. `coarse`: the few face landmarks that the body net places for the face crop;
    `lip_pairs`, `lid_pairs`: (upper, lower) points whose distance is an opening; `mirror`: the index of each
    point's mirror image."""

    names: tuple[str, ...]
    body: Index
    hand_left: Index
    hand_right: Index
    face: Index
    lips: Index
    eyelids: Index
    coarse: Index
    lip_pairs: Index
    lid_pairs: Index
    mirror: Index

    @property
    def body_net(self) -> Index:
        """Points of the whole-image net, in its order."""
        return np.concatenate([self.body, self.hand_left, self.hand_right, self.coarse])

    def points_of(self, net: str) -> Index:
        """Points of the net body, face or hand (right-hand points; left hands are mirrored)."""
        return {"body": self.body_net, "face": self.face, "hand": self.hand_right}[net]


def _layout() -> Layout:
    names = tuple(L.KEYPOINTS)
    return Layout(names=names, **{k: np.asarray(v, np.int64) for k, v in L.critics_groups().items()})


LAYOUT = _layout()
