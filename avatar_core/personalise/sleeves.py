"""Where sleeves end: arms are cloth down to there and skin below, and what the portrait hides of them is completed accordingly.

Each arm is cut in two pieces of one colour each, the hand being part of the lower one, where that explains best what is seen
along it; the other arm, dressed alike as a rule, has a say. An arm of one colour has no such place.

Legend: N base particles, E places along an arm where its sleeve may end.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

from avatar_core.particles.layout import REGIONS, ParticleLayout, particle_weights
from avatar_core.template.mesh import Template

STEP = 0.1  # of places along an arm, in lengths of its parts
HAND = 3  # steps of an arm that a hand counts for
FEWEST = 3  # particles that tell a step's colour
OTHER = 0.3  # what the other arm counts
APART = 16.0  # difference (CIELAB) from which cloth and skin are told apart
FRONTAL = (
    0.3  # cosine to the viewer from which a colour is handed on: outlines have shadows and backdrop in them
)
NEAR_M = 0.06  # from what is seen its own colours are taken, further off the piece's
SOURCES = 6
LEAST_SOURCES = 12


@dataclass(frozen=True)
class Arms:
    """side (N,): 0 left arm, 1 right arm, -1 neither; along (N,): 0 at the shoulder, 1 at the elbow, 2 at the wrist, more on the
    hand."""

    side: np.ndarray
    along: np.ndarray

    @property
    def part(self) -> np.ndarray:
        """(N,) 0 but on arms, else another number for each upper arm, forearm and hand."""
        return np.where(self.side < 0, 0, 1 + 3 * self.side + np.digitize(np.nan_to_num(self.along), (1, 2)))


def find_arms(template: Template, layout: ParticleLayout) -> Arms:
    """Both arms' particles, by their skin weights and the template's bones."""
    weights = particle_weights(template, layout)
    position = layout.points(template.vertices)
    side, along = np.full(len(layout), -1), np.full(len(layout), np.nan)
    for k, name in enumerate("LR"):
        bones = [template.bone_index[f"{stem}.{name}"] for stem in ("upperarm01", "lowerarm01", "wrist")]
        shoulder, elbow, wrist = template.bone_heads[bones]
        parts = [
            [b for n, b in template.bone_index.items() if n.startswith(stems) and n.endswith(f".{name}")]
            for stems in (("upperarm",), ("lowerarm",), ("wrist", "metacarpal", "finger"))
        ]
        upper, fore, hand = (weights[:, bones].sum(1) for bones in parts)
        rows = np.flatnonzero(upper + fore + hand > 0.5)
        first, second = _share(position[rows], shoulder, elbow), _share(position[rows], elbow, wrist)
        below = (fore + hand)[rows] > upper[rows]
        side[rows] = k
        along[rows] = np.where(below, 1 + second.clip(0), first.clip(None, 1))
    return Arms(side, along)


def sleeve_ends(
    arms: Arms, layout: ParticleLayout, colors: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where the sleeves of the left and the right arm end (2,), nan where there is no telling, and each arm's colours (2,2,3)
    above and below in CIELAB. colors (N,3), seen (N,)."""
    lab = to_lab(colors)
    hand = np.isin(layout.region, [REGIONS["hand_left"], REGIONS["hand_right"]])
    edges = np.arange(-2, 21) * STEP
    steps = np.full((2, len(edges) + HAND, 3), np.nan)
    for k in range(2):
        mine = seen & (arms.side == k)
        number = np.floor(arms.along / STEP - edges[0] / STEP + 1e-6)
        for e in range(len(edges)):
            rows = mine & ~hand & (number == e)
            if rows.sum() >= FEWEST:
                steps[k, e] = np.median(lab[rows], 0)
        if (mine & hand).sum() >= LEAST_SOURCES:
            steps[k, len(edges) :] = np.median(lab[mine & hand], 0)
    cost, pieces = np.zeros((2, len(edges))), np.full((2, len(edges), 2, 3), np.nan)
    for k in range(2):
        for e in range(len(edges)):
            for p, part in enumerate((steps[k, :e], steps[k, e:])):
                part = part[np.isfinite(part[:, 0])]
                if len(part):
                    pieces[k, e, p] = np.median(part, 0)
                    cost[k, e] += np.linalg.norm(part - pieces[k, e, p], axis=1).sum()
    ends, colors_of = np.full(2, np.nan), np.full((2, 2, 3), np.nan)
    trust = np.where(np.isfinite(steps[:, -1, 0]), 1.0, OTHER)
    for k in range(2):
        # an arm whose hand is hidden may be hidden itself, by something of any colour
        both = trust[k] * cost[k] + (OTHER if trust[k] == 1 else trust[1 - k]) * cost[1 - k]
        e = int(
            both.argmin()
        )  # the first where nothing is seen over a stretch: a sleeve ends where it is last seen
        own, other = pieces[k, e], pieces[1 - k, e]
        told = np.where(np.isfinite(own) & (trust[k] >= trust[1 - k]), own, other)
        if np.linalg.norm(told[0] - told[1]) > APART:  # not so of nan
            ends[k], colors_of[k] = edges[e], told
    return ends, colors_of


def misread(
    arms: Arms, ends: np.ndarray, pieces: np.ndarray, colors: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """(N,) bool: particles that show the colour of the other piece of their arm: the fitted arm lies a little beside the real one,
    before cloth where it should be skin. They show the portrait as it is, and tell nothing of their neighbours. Arguments as in and
    from `sleeve_ends`."""
    lab = to_lab(colors)
    out = np.zeros(len(seen), bool)
    for k in np.flatnonzero(np.isfinite(ends)):
        rows = np.flatnonzero(seen & (arms.side == k) & (np.abs(arms.along - ends[k]) > STEP))
        below = arms.along[rows] > ends[k]
        to = np.linalg.norm(lab[rows, None] - pieces[k], axis=2)
        own, other = np.where(below, to[:, 1], to[:, 0]), np.where(below, to[:, 0], to[:, 1])
        out[rows] = (own > APART) & (other < 0.5 * own)
    return out


def complete_arms(
    arms: Arms,
    ends: np.ndarray,
    layout: ParticleLayout,
    key: np.ndarray,
    colors: np.ndarray,
    *,
    missing: np.ndarray,
    told: np.ndarray,
) -> np.ndarray:
    """colors (N,3), on arms those of `missing` (N,) particles filled in from those `told` (N,) where enough of their piece is told
    of either arm. key (N,3): places, both sides mirrored onto each other."""
    out = colors.copy()
    body = layout.region == REGIONS["body"]
    end = np.where(arms.side >= 0, ends[arms.side], np.nan)
    # 0: an arm without a sleeve's end, 1: above it, 2: below it
    piece = np.where(np.isfinite(end), 1 + (arms.along > end), 0) * (arms.side >= 0)
    for p in range(3):
        mine = (arms.side >= 0) & (piece == p)
        wanted = np.flatnonzero(mine & body & missing)
        known = np.flatnonzero(mine & told & (body | (p == 2)))
        if not len(wanted) or len(known) < LEAST_SOURCES:
            continue
        distance, which = cKDTree(key[known]).query(key[wanted], k=SOURCES)
        share = np.exp(-distance.mean(1, keepdims=True) / NEAR_M)
        out[wanted] = share * colors[known][which].mean(1) + (1 - share) * np.median(colors[known], 0)
    return out


def to_lab(colors: np.ndarray) -> np.ndarray:
    """(N,3) in [0,1] -> CIELAB."""
    return cv2.cvtColor(np.clip(colors, 0, 1).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]


def _share(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(N,) where points (N,3) lie between start (0) and end (1)."""
    return (points - start) @ (end - start) / ((end - start) ** 2).sum()
