"""Point tracks by dense optical flow: pixel motion that supervises trajectory alignment, measured from the frames alone.

Points are seeded on trackable foreground corners (Shi-Tomasi) and re-seeded at fixed intervals where coverage has
thinned out; each is carried by DIS optical flow and dropped when the forward-backward error says that it was lost.

Legend: T frames, H height, W width, P tracks.
Sources: AudioAvatar section "Video Diffusion Distillation" (trajectory alignment loss); Kroeger et al., "Fast Optical
Flow using Dense Inverse Search" (ECCV 2016); forward-backward check as in Kalal et al. (ICPR 2010).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from avatar_core.config import ranged


@dataclass(frozen=True)
class OpticalFlowTracks:
    """Point tracks by DIS optical flow: how points are seeded and when a track ends.

    points: tracks alive at most. reseed_every: frames between seedings. spacing: least distance of seeds in pixels.
    max_forward_backward: largest round-trip error in pixels before a point counts as lost.
    """

    points: int = ranged(160, 8)
    reseed_every: int = ranged(12, 1)
    spacing: float = ranged(6.0, 1)
    max_forward_backward: float = ranged(0.8, 0.01)

    def track(self, frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Foreground points through a clip: frames (T,H,W,3) uint8, masks (T,H,W) -> (T,P,2) px, NaN where not alive."""
        return track_points(frames, masks, self)


def _bilinear(flow: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """flow (H,W,2) sampled at xy (P,2) pixel-centre coordinates (centre of the first pixel = 0.5) -> (P,2)."""
    grid = (xy - 0.5).astype(np.float32)
    return cv2.remap(
        flow, grid[:, None, 0], grid[:, None, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )[:, 0]


def _inside(xy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Which of xy (P,2) lie inside the image and on the mask (H,W)."""
    height, width = mask.shape
    column = np.floor(xy[:, 0]).astype(int)
    row = np.floor(xy[:, 1]).astype(int)
    ok = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    ok[ok] &= mask[row[ok], column[ok]] > 0
    return ok


def seed_points(
    gray: np.ndarray, mask: np.ndarray, taken: np.ndarray, count: int, spacing: float
) -> np.ndarray:
    """Up to `count` corners (P,2) on the mask that keep `spacing` to the points in taken (M,2)."""
    if count <= 0:
        return np.zeros((0, 2), np.float32)
    free = np.where(mask > 0, 255, 0).astype(np.uint8)
    for x, y in taken:
        cv2.circle(free, (int(x), int(y)), int(np.ceil(spacing)), 0, -1)
    corners = cv2.goodFeaturesToTrack(gray, count, 0.002, spacing, mask=free, blockSize=5)
    if corners is None:
        return np.zeros((0, 2), np.float32)
    return corners[:, 0].astype(np.float32) + 0.5


def track_points(frames: np.ndarray, masks: np.ndarray, config: OpticalFlowTracks) -> np.ndarray:
    """Track foreground points through a clip.

    frames (T,H,W,3) uint8 RGB; masks (T,H,W) uint8, foreground > 0.
    -> (T,P,2) float32 pixel positions, NaN in the frames where a track is not alive.
    """
    assert frames.ndim == 4 and masks.shape == frames.shape[:3], (frames.shape, masks.shape)
    num_frames = len(frames)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    # Eroded, so that a seed does not ride on the silhouette, whose flow belongs half to the background.
    core = [cv2.erode(mask, np.ones((5, 5), np.uint8)) for mask in masks]
    flow_engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # pyright: ignore[reportAttributeAccessIssue]

    tracks: list[np.ndarray] = []
    alive = np.zeros(0, int)
    xy = np.zeros((0, 2), np.float32)
    for t in range(num_frames):
        if t > 0 and len(alive):
            forward = flow_engine.calc(gray[t - 1], gray[t], None)
            backward = flow_engine.calc(gray[t], gray[t - 1], None)
            step = _bilinear(forward, xy)
            moved = xy + step
            round_trip = np.linalg.norm(step + _bilinear(backward, moved), axis=1)
            keep = (round_trip <= config.max_forward_backward) & _inside(moved, masks[t])
            alive, xy = alive[keep], moved[keep]
        if t % config.reseed_every == 0:
            fresh = seed_points(gray[t], core[t], xy, config.points - len(alive), config.spacing)
            new_ids = np.arange(len(tracks), len(tracks) + len(fresh))
            tracks += [np.full((num_frames, 2), np.nan, np.float32) for _ in new_ids]
            alive, xy = np.concatenate([alive, new_ids]), np.concatenate([xy, fresh])
        for track_id, point in zip(alive, xy, strict=True):
            tracks[track_id][t] = point
    # A point seen once says nothing about motion.
    long_enough = [track for track in tracks if np.isfinite(track[:, 0]).sum() >= 2]
    if not long_enough:
        return np.zeros((num_frames, 0, 2), np.float32)
    return np.stack(long_enough, 1)


@dataclass(frozen=True)
class TrackBinding:
    """particles (M,) int64 that tracks sit on; targets (T,M,2) float32 px of the particles' centres, NaN when absent."""

    particles: np.ndarray
    targets: np.ndarray


def bind_tracks(
    tracks: np.ndarray, pixels: np.ndarray, depth: np.ndarray, radius: float = 3.0, thickness: float = 0.03
) -> TrackBinding:
    """Attach every track to the nearest near-side particle in the track's first frame.

    tracks (T,P,2) px, NaN when absent; pixels (T,N,2) and depth (T,N) m of the particles as placed so far. A particle is
    on the near side when less than `thickness` metres behind the nearest one within `radius` px. The distance at the
    start is kept: a track tells how the particle moves, not where it is. Tracks on no particle are left out.
    Locked by test_tracks_bind_to_the_near_side_and_keep_their_offset.
    """
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

    seen = np.isfinite(tracks).all(-1)
    first = np.where(seen.any(0), seen.argmax(0), -1)
    particles, targets = [], []
    for start in np.unique(first[first >= 0]):
        tree = cKDTree(pixels[start])
        chosen = np.flatnonzero(first == start)
        for track, near in zip(chosen, tree.query_ball_point(tracks[start, chosen], radius), strict=True):
            if not near:
                continue
            index = np.sort(np.asarray(near))
            front = index[depth[start, index] < depth[start, index].min() + thickness]
            particle = int(
                front[np.linalg.norm(pixels[start, front] - tracks[start, track], axis=-1).argmin()]
            )
            particles.append(particle)
            targets.append(tracks[:, track] - tracks[start, track] + pixels[start, particle])
    if not particles:
        return TrackBinding(np.zeros(0, np.int64), np.zeros((len(tracks), 0, 2), np.float32))
    return TrackBinding(np.asarray(particles, np.int64), np.stack(targets, 1).astype(np.float32))
