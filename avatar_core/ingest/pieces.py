"""Which stretches of a watched video become clips, and why the others do not.

A shot gives runs in which one face is large enough, turned to the viewer and whole; runs are cut at pauses of the voice; each piece
is then checked on its own, so that one bad second costs one clip and not the shot.

Legend: T frames of the file, F frames of a piece. Heights are those of the face.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar_core.clock import FPS
from avatar_core.ingest.config import IngestConfig
from avatar_core.ingest.faces import COLUMNS
from avatar_core.ingest.sound import Sound
from avatar_core.ingest.sync import Sync, measure
from avatar_core.ingest.watch import BOX, Track, Watched

REPEATED = 1.5 / 255  # change of a place below which a picture is the one before
HEAD_ABOVE, CROP_SIDE = 0.55, 2.15  # heights: from the mesh's top to above the hair; side of a close crop
SMALLEST_CROP = 1.7  # heights: less does not hold a head
OTHER_FACE = 0.35  # faces smaller than this share of the talker's are part of the backdrop


@dataclass(frozen=True)
class Piece:
    """Frames [start, stop) of a file in which `track` speaks; window (4,): left, top, side, side px of the close crop; reason:
    why it is refused, empty when it is taken; note: what else to say about it."""

    start: int
    stop: int
    track: int
    window: tuple[int, int, int] = (0, 0, 0)
    reason: str = ""
    note: str = ""

    @property
    def seconds(self) -> float:
        return (self.stop - self.start) / FPS


def find_pieces(watched: Watched, sound: Sound, config: IngestConfig) -> tuple[list[Piece], Sync | None, int]:
    """All shots of a file -> pieces, taken and refused, in order; how lips and sound go together; frames by which the
    sound must be moved to the right."""
    runs: list[Piece] = []
    for start, stop in watched.shots():
        runs += _shot_runs(watched, sound, start, stop, config)
    parts = [_openings(watched.tracks[run.track], run) for run in runs if not run.reason]
    sync = measure(parts, sound.loudness, config.sync_frames, config.sync_search)
    reason, shift, note = judge_sync(sync, config)
    pieces: list[Piece] = []
    for run in runs:
        if run.reason:
            pieces.append(run)
        elif reason:
            pieces.append(Piece(run.start, run.stop, run.track, reason=reason))
        else:
            for a, b in cut_at_pauses(run.start, run.stop, sound.loudness, shift, config):
                pieces.append(_check(watched, sound, Piece(a, b, run.track, note=note), shift, config))
    return pieces, sync, shift


def judge_sync(sync: Sync | None, config: IngestConfig) -> tuple[str, int, str]:
    """(why the file's talk is refused, frames by which the sound is moved, what to note)."""
    if sync is None:
        return "", 0, "too short to compare lips and sound"
    if sync.near_sure >= config.sync_sure and sync.near >= 0.75 * sync.peak:
        return "", 0, ""
    ms = round(1000 * abs(sync.lag) / FPS)
    late = "after" if sync.lag > 0 else "before"
    if sync.sure >= config.sync_shift and abs(sync.lag) > config.sync_frames:
        return "", sync.lag, f"the sound was moved by {ms} ms: the lips came {late} it"
    if sync.seconds < config.sync_seconds:
        return "", 0, f"too short to be sure that lips and sound belong together ({sync.near_sure:.1f} sigma)"
    return (
        f"lips and sound do not go together: correlation {sync.near:.2f}, {sync.near_sure:.1f} sigma of chance, "
        f"at best {sync.peak:.2f} with the lips {ms} ms {late} the sound"
    ), 0, ""  # fmt: skip


def _shot_runs(watched: Watched, sound: Sound, start: int, stop: int, config: IngestConfig) -> list[Piece]:
    """Runs of a shot with one usable face, or one refused piece that says what is wrong with it."""

    def refused(reason: str) -> list[Piece]:
        return [Piece(start, stop, -1, reason=reason)]

    least = round(config.min_seconds * FPS)
    if stop - start < least:
        return refused(f"too short: {(stop - start) / FPS:.2f} s")
    inside = [k for k, t in enumerate(watched.tracks) if start <= t.start < stop]
    if not inside:
        return refused("no face")
    voice = sound.voiced[start:stop]
    if voice.mean() < 0.1 or voice.sum() < least * config.min_voice:
        return refused("no voice" if len(sound.samples) else "no sound")
    talker = _talker(watched, inside, sound, config)
    runs: list[Piece] = []
    why: dict[str, int] = {}
    for k in inside:
        track = watched.tracks[k]
        if k != talker and not _same_place(track, watched.tracks[talker]):
            continue
        fine, reasons = _usable(track, watched, config)
        for reason in reasons:
            why[reason] = why.get(reason, 0) + reasons[reason]
        for a, b in _runs(fine):
            if b - a >= least:
                runs.append(_apart(watched, inside, Piece(track.start + a, track.start + b, k), config))
    if not runs:
        worst = max(why, key=lambda r: why[r]) if why else "the face is seen for too short a time"
        return refused(worst)
    return sorted(runs, key=lambda piece: piece.start)


def _talker(watched: Watched, inside: list[int], sound: Sound, config: IngestConfig) -> int:
    """The track that speaks: of faces of nearly the same size, the one whose lips go with the voice; else the largest."""
    size = {
        k: float(np.median(watched.tracks[k].column("height"))) * len(watched.tracks[k].rows) ** 0.5
        for k in inside
    }
    largest = max(size, key=lambda k: size[k])
    rivals = [k for k in inside if size[k] > 0.6 * size[largest]]
    if len(rivals) == 1:
        return largest
    scores = {}
    for k in rivals:
        track = watched.tracks[k]
        part = _openings(track, Piece(track.start, track.stop, k))
        sync = measure([part], sound.loudness, config.sync_frames, config.sync_search)
        scores[k] = sync.near if sync else -1.0
    return max(scores, key=lambda k: scores[k])


def _same_place(a: Track, b: Track) -> bool:
    """Whether two tracks follow one face, lost for a moment."""
    if a.start < b.stop and b.start < a.stop:
        return False
    one, other = np.median(a.rows, 0), np.median(b.rows, 0)
    near = np.hypot(one[0] - other[0], one[1] - other[1]) < other[COLUMNS["height"]]
    return bool(near and 0.7 < one[2] / other[2] < 1.4)


def _usable(track: Track, watched: Watched, config: IngestConfig) -> tuple[np.ndarray, dict[str, int]]:
    """(F,) frames that can be learnt from, and what was wrong with how many of the others."""
    height, yaw, pitch = track.column("height"), track.column("yaw"), track.column("pitch")
    box = track.rows[:, BOX]
    whole = (box[:, :2] > 1).all(1) & (box[:, 2] < watched.width - 1) & (box[:, 3] < watched.height - 1)
    # The mesh has no zero of pitch: a forehead slopes. What counts is how far the head leaves the face's own middle.
    tilt = pitch - np.clip(np.median(pitch), -15, 15)
    small = (
        f"the face is too small: {np.median(height):.0f} px high, at least {config.min_face_px} are needed"
    )
    checks = {
        small: height >= config.min_face_px,
        f"the head is turned away: more than {config.max_yaw:.0f} degrees": np.abs(yaw) <= config.max_yaw,
        "the picture lies on its side: turn it upright": np.abs(track.column("roll")) <= config.max_roll,
        f"the head looks up or down: more than {config.max_pitch:.0f} degrees": np.abs(tilt)
        <= config.max_pitch,
        "the face is cut off by the edge of the picture": whole,
    }
    fine = np.all(list(checks.values()), axis=0)
    return fine, {reason: int((~good).sum()) for reason, good in checks.items() if not good.all()}


def _runs(fine: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], fine.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _apart(watched: Watched, inside: list[int], piece: Piece, config: IngestConfig) -> Piece:
    """The piece, refused when another person's face comes within the close crop."""
    left, top, side = close_window(watched, piece)
    for k in inside:
        other = watched.tracks[k]
        a, b = max(other.start, piece.start), min(other.stop, piece.stop)
        if k == piece.track or b <= a:
            continue
        own = float(np.median(watched.tracks[piece.track].column("height")))
        rows = other.rows[a - other.start : b - other.start]
        if np.median(rows[:, COLUMNS["height"]]) < OTHER_FACE * own:
            continue
        box = np.median(rows[:, BOX], 0)
        if box[2] > left and box[0] < left + side and box[3] > top and box[1] < top + side:
            return Piece(piece.start, piece.stop, piece.track, reason="another person is too near")
    return piece


def cut_at_pauses(
    start: int, stop: int, loudness: np.ndarray, shift: int, config: IngestConfig
) -> list[tuple[int, int]]:
    """Frames [start, stop) in pieces of at most `max_seconds`, each cut at the quietest frame of its second half."""
    longest, least = int(config.max_seconds * FPS), round(config.min_seconds * FPS)
    out = []
    while stop - start > longest:
        # A last piece that would be too short takes from the one before.
        last = min(start + longest, stop - least)
        options = np.arange(max(start + longest // 2, start + least), last + 1)
        heard = np.clip(options - shift, 0, len(loudness) - 1)
        at = int(options[loudness[heard].argmin()])
        out.append((start, at))
        start = at
    return [*out, (start, stop)]


def close_window(watched: Watched, piece: Piece) -> tuple[int, int, int]:
    """left, top, side px of a square round head and shoulders that holds the face in all frames of the piece."""
    track = watched.tracks[piece.track]
    rows = track.rows[piece.start - track.start : piece.stop - track.start]
    height = float(np.median(rows[:, COLUMNS["height"]]))
    low, high = rows[:, BOX[:2]].min(0), rows[:, BOX[2:]].max(0)
    top = low[1] - HEAD_ABOVE * height
    need = max(high[0] - low[0], high[1] - top)
    side = int(min(max(CROP_SIDE * height, need), watched.width, watched.height)) // 2 * 2
    middle = (low[0] + high[0]) / 2
    left = int(np.clip(round(middle - side / 2), 0, watched.width - side))
    return left, int(np.clip(round(top), 0, watched.height - side)), side


def _check(watched: Watched, sound: Sound, piece: Piece, shift: int, config: IngestConfig) -> Piece:
    """The piece with its window, or with the first reason against it."""
    track = watched.tracks[piece.track]
    rows = track.rows[piece.start - track.start : piece.stop - track.start]
    window = close_window(watched, piece)
    height = float(np.median(rows[:, COLUMNS["height"]]))
    box = rows[:, BOX]
    centre = rows[:, :2]
    travel = float(np.ptp(centre, axis=0).max()) / height
    sizes = np.quantile(rows[:, COLUMNS["height"]], [0.05, 0.95])
    repeated = float((watched.change[piece.start + 1 : piece.stop] < REPEATED).mean())
    camera = camera_motion(watched, piece.start, piece.stop)
    heard = np.arange(piece.start, piece.stop) - shift
    voice = sound.voiced[heard[(heard >= 0) & (heard < len(sound.voiced))]]
    voiced = float(voice.sum()) / len(rows)
    lips = float(rows[:, COLUMNS["lips"]].std())
    outside = max(
        window[0] - box[:, 0].min(), window[1] - box[:, 1].min(),
        box[:, 2].max() - window[0] - window[2], box[:, 3].max() - window[1] - window[2],
    )  # fmt: skip
    reason = ""
    if repeated > 0.95:
        reason = "the picture stands still"
    elif repeated > config.max_repeated:
        reason = f"too few different pictures: {FPS * (1 - repeated):.0f} a second"
    elif camera is not None and camera > config.max_camera:
        reason = f"the camera moves: the backdrop by {100 * camera:.1f}% of the picture's height"
    elif sizes[1] / sizes[0] > config.max_growth:
        reason = (
            f"the person comes nearer or goes away: the face grows by {100 * (sizes[1] / sizes[0] - 1):.0f}%"
        )
    elif travel > config.max_travel or outside > 0 or window[2] < SMALLEST_CROP * height:
        moved = f"the face moves by {travel:.1f} of its height"
        reason = (
            f"the person moves about: {moved}"
            if travel > 0.4
            else "the face fills the picture: no room for the head"
        )
    elif piece.seconds < config.min_seconds:
        reason = f"too short: {piece.seconds:.2f} s"
    elif voiced < config.min_voice:
        reason = f"hardly a voice: {100 * voiced:.0f}% of the time"
    elif lips < config.min_lips:
        reason = "the lips stand still while a voice is heard"
    note = piece.note
    if camera is None and not reason:
        note = "; ".join(
            [*filter(None, [note]), "backdrop without marks: the camera's motion was not measured"]
        )
    return Piece(piece.start, piece.stop, piece.track, window, reason, note)


def camera_motion(watched: Watched, start: int, stop: int) -> float | None:
    """How far the backdrop's corners move between any two looks of [start, stop), in shares of the picture's height; None where
    most of it could not be followed."""
    rows = watched.camera
    rows = rows[(rows[:, 0] < stop) & (rows[:, 1] > start)] if len(rows) else rows
    known = np.isfinite(rows).all(1) if len(rows) else np.zeros(0, bool)
    if known.sum() == 0 or known.mean() < 0.5:
        return None
    aspect = watched.width / watched.height
    corners = np.array([[0, 0], [aspect, 0], [0, 1], [aspect, 1], [aspect / 2, 0.5]])
    places, total = [corners], np.eye(3)
    for row in rows[known]:
        total = np.vstack([row[2:].reshape(2, 3), [0, 0, 1]]) @ total
        places.append(corners @ total[:2, :2].T + total[:2, 2])
    path = np.stack(places)
    spread = np.linalg.norm(path[:, None] - path[None], axis=-1)
    return float(spread.max())


def _openings(track: Track, piece: Piece) -> tuple[np.ndarray, np.ndarray]:
    """What `sync.measure` compares: frames and the openings of lips and jaw."""
    rows = track.rows[piece.start - track.start : piece.stop - track.start]
    return np.arange(piece.start, piece.stop), rows[:, [COLUMNS["lips"], COLUMNS["jaw"]]]
