"""Beat gestures: which key pose when, for each hand on its own, with strokes on stressed syllables, holds and rests.

A gesture unit (Kendon): the hands leave rest, move to a pose whose stroke falls on a stressed syllable, hold and beat on
the next ones, change pose or go back to rest in a pause. The hands are not mirror images: other pose, other time, other
size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from avatar_core.procedural.performance.arms import LEFT_BONES, place
from avatar_core.procedural.performance.curves import Move, bump, follow, picture_times, smooth_noise
from avatar_core.procedural.performance.poses import GESTURES, arm_pose

_ROW = {name: i for i, name in enumerate(LEFT_BONES)}
_MIN_MOVE_S = 0.32
_GAP_S = 0.75  # a longer silence between stresses ends the unit


@dataclass(frozen=True)
class Stroke:
    """A gesture reaching its pose: seconds, name, leading hand ("left" or "right")."""

    time_s: float
    name: str
    leading: str


def gesture_arms(
    stresses: list[float],
    speech_end_s: float,
    num_frames: int,
    rng: np.random.Generator,
    energy: float,
    lead_left: float,
) -> tuple[np.ndarray, list[Stroke]]:
    """Rotation vectors of both arms.

    Args:
        stresses: times of stressed syllables, seconds, ascending.
        speech_end_s: when the voice ends; the arms go to rest after it.
        energy: 0 = arms hang, 1 = lively; scales how often and how far.
        lead_left: probability that the left hand leads.

    Returns:
        (T, 104, 3) of the arms' bones (others zero), and the strokes made.
    """
    time = picture_times(num_frames)
    rest = arm_pose("rest")
    first = _opening(rng, energy if stresses else 0.0)
    strokes, plan = _plan(stresses, rng, energy, lead_left)
    arms = []
    for side in ("left", "right"):
        lag = rng.normal(0.0, 0.035) + (0.0 if lead_left > 0.5 else 0.02)
        moves: list[Move] = []
        for arrive, preparation, poses in plan:
            _append(moves, arrive + lag, preparation * rng.uniform(0.9, 1.2), poses[side])
        last_s = moves[-1].end_s if moves else 0.0
        _append(moves, max(speech_end_s, last_s + 0.25) + rng.uniform(0.55, 0.8), 0.7, rest)
        arm = follow(moves, first[side], time)
        levels = [Move(m.start_s, m.end_s, _raised(m.target)) for m in moves]
        raised = follow(levels, _raised(first[side]), time)
        arm += _beats(time, stresses, raised, rng, energy)
        arm += _tremor(num_frames, raised, rng)
        arms.append(gaussian_filter1d(arm, 0.6, axis=0, mode="nearest"))
    return place(arms[0], arms[1]), strokes


def _opening(rng: np.random.Generator, energy: float) -> dict[str, np.ndarray]:
    """Where the hands are when the clip begins: mostly hanging, at times already half raised or in a gesture."""
    rest = arm_pose("rest")
    draw, size = rng.random(), rng.uniform(0.6, 1.0)
    names = {"left": "rest", "right": "rest"}
    if energy > 0 and draw < 0.25:
        names = {"left": "low", "right": "low"}
    elif energy > 0 and draw < 0.40:
        gesture = GESTURES[int(rng.integers(len(GESTURES)))]
        sides = ("left", "right") if rng.random() < 0.5 else ("right", "left")
        names = {sides[0]: gesture.leading, sides[1]: gesture.other}
    return {side: rest + size * (arm_pose(names[side]) - rest) for side in ("left", "right")}


def _raised(pose: np.ndarray) -> np.ndarray:
    """0 for a hanging arm, 1 for one whose elbow is bent by half a radian or more (scalar array)."""
    elbow = _ROW["lowerarm01"]
    return np.asarray(min(1.0, 2.0 * float(np.linalg.norm(pose[elbow] - arm_pose("rest")[elbow]))))


def _plan(
    stresses: list[float], rng: np.random.Generator, energy: float, lead_left: float
) -> tuple[list[Stroke], list[tuple[float, float, dict[str, np.ndarray]]]]:
    """Arrival time, length of the preparation, and each hand's pose; rests are planned like poses."""
    weights = np.array([g.weight for g in GESTURES])
    strokes: list[Stroke] = []
    plan: list[tuple[float, float, dict[str, np.ndarray]]] = []
    rest = arm_pose("rest")
    active, last, previous = False, -1.0, -1
    spacing = rng.uniform(0.7, 1.3)
    for i, stress in enumerate(stresses):
        following = stresses[i + 1] if i + 1 < len(stresses) else np.inf
        if stress - last >= spacing and rng.random() < min(1.0, 0.4 + 0.7 * energy) and energy > 0:
            chance = weights.copy()
            if previous >= 0:
                chance[previous] = 0.0
            previous = int(rng.choice(len(GESTURES), p=chance / chance.sum()))
            gesture = GESTURES[previous]
            leading = "left" if rng.random() < lead_left else "right"
            size = float(np.clip(rng.uniform(0.75, 1.0) * (0.6 + 0.4 * energy), 0.3, 1.0))
            poses = {}
            for side in ("left", "right"):
                name = gesture.leading if side == leading else gesture.other
                own = size * (1.0 if side == leading else rng.uniform(0.75, 0.95))
                varied = _vary(arm_pose(name), rng, 1.0 if name != "rest" else 0.3)
                poses[side] = rest + own * (varied - rest)
            plan.append((stress, rng.uniform(0.38, 0.6), poses))
            strokes.append(Stroke(stress, gesture.name, leading))
            active, last, spacing = True, stress, rng.uniform(0.7, 1.5)
        if active and following - stress > _GAP_S + 0.6 and rng.random() < 0.6:
            plan.append((stress + 0.35 + 0.55, 0.6, {"left": rest, "right": rest}))
            active = False
    return strokes, plan


def _append(moves: list[Move], arrive: float, length: float, target: np.ndarray) -> None:
    """Add a move ending at `arrive`; shortened or put off so that it follows the one before."""
    begin = arrive - length
    if moves and begin < moves[-1].end_s:
        begin = moves[-1].end_s
        arrive = max(arrive, begin + _MIN_MOVE_S)
    begin = max(begin, 0.0) if arrive > _MIN_MOVE_S else 0.0
    moves.append(Move(begin, max(arrive, begin + _MIN_MOVE_S), target))


def _vary(pose: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """The same gesture is never made twice alike: a few degrees at shoulder, elbow, wrist."""
    varied = pose.copy()
    for bone, degrees in (("upperarm01", 4.0), ("lowerarm01", 4.0), ("wrist", 4.0)):
        varied[_ROW[bone]] += (
            amount * np.radians(degrees) * rng.standard_normal(3) * np.array([1.0, 0.6, 0.6])
        )
    return varied


def _beats(
    time: np.ndarray, stresses: list[float], raised: np.ndarray, rng: np.random.Generator, energy: float
) -> np.ndarray:
    """(T, bones, 3): on each stress a raised forearm dips and the wrist follows a little later."""
    beats = np.zeros((len(time), len(LEFT_BONES), 3))
    rest, low = arm_pose("rest"), arm_pose("low")
    bend = low[_ROW["lowerarm01"]] - rest[_ROW["lowerarm01"]]
    flexion = bend / np.linalg.norm(bend)
    nod = np.array([1.0, 0.0, 0.0])
    for stress in stresses:
        size = np.radians(rng.uniform(5.0, 12.0)) * energy
        late = rng.normal(0.0, 0.02)
        lift = bump(time, stress + late - 0.09, 0.16, 0.0, 0.14)
        dip = bump(time, stress + late + 0.03, 0.12, 0.02, 0.24)
        beats[:, _ROW["lowerarm01"]] += (size * (0.5 * lift - dip) * raised)[:, None] * flexion
        beats[:, _ROW["wrist"]] += (0.6 * size * bump(time, stress + late + 0.08, 0.14, 0.0, 0.26) * raised)[
            :, None
        ] * nod
    return beats


def _tremor(num_frames: int, raised: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T, bones, 3): slow drift of the arm, livelier fingers while raised; nobody holds still."""
    drift = np.zeros((num_frames, len(LEFT_BONES), 3))
    for bone, degrees in (("upperarm01", 0.8), ("lowerarm01", 1.2), ("wrist", 1.5)):
        drift[:, _ROW[bone]] = np.radians(degrees) * smooth_noise(rng, num_frames, 0.5, 3)
    rest, cup = arm_pose("rest"), arm_pose("hold")
    curl = smooth_noise(rng, num_frames, 0.35)[:, 0] * (0.06 + 0.06 * raised)
    for name, row in _ROW.items():
        if name.startswith("finger"):
            drift[:, row] = curl[:, None] * (cup[row] - rest[row])
    return drift
