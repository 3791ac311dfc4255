"""What was found in a portrait, on one picture to look at: points, cut-out, room, and the avatar that came of it."""

from __future__ import annotations

import os

import cv2
import numpy as np

from avatar_core.io.images import contact_sheet, to_uint8
from avatar_core.personalise.personalise import PortraitFit
from avatar_core.template.landmarks import FACE_POINTS, HAND_JOINTS, KEYPOINT_INDEX

CELL_PX = 448
TRUSTED = 0.5
LEFT, RIGHT, MIDDLE, FACE = (64, 160, 255), (255, 110, 64), (240, 220, 60), (80, 255, 120)
LIMBS = (("shoulder", "elbow"), ("elbow", "wrist"), ("shoulder", "hip"), ("hip", "knee"), ("knee", "ankle"))
CHECKS_PX = 16


def write_preview(path: str | os.PathLike, fit: PortraitFit, resting: np.ndarray) -> None:
    """Write the PNG. resting (H,W,3): the avatar at rest, through the portrait's camera."""
    height, width = fit.matte.alpha.shape
    found = int((fit.confidence > TRUSTED).sum())
    pictures = {
        f"found: {found} of {len(fit.confidence)} points": draw_points(fit),
        f"cut out: {fit.matte.alpha.mean():.0%} of the picture": cut_out(fit),
        "room": fit.matte.background.image(width, height),
        f"avatar in the portrait's pose: {fit.psnr_foreground:.1f} dB": fit.picture,
        "avatar at rest": resting,
    }
    title = (
        f"person {fit.psnr_foreground:.1f} dB, face {fit.psnr_face:.1f} dB, beside the outline {fit.outside:.2%}, "
        f"points off by {fit.keypoint_error_px:.1f} px"
    )
    contact_sheet(path, list(pictures.values()), list(pictures), columns=3, cell=CELL_PX, title=title)


def cut_out(fit: PortraitFit) -> np.ndarray:
    """The person (H,W,3) over a checkerboard."""
    alpha = fit.matte.alpha[..., None]
    row, column = np.indices(fit.matte.alpha.shape) // CHECKS_PX
    checks = np.where((row + column) % 2, 0.55, 0.75)[..., None]
    return alpha * fit.matte.colors + (1 - alpha) * checks


def draw_points(fit: PortraitFit) -> np.ndarray:
    """The portrait (H,W,3) uint8 with the trusted keypoints; the person's left blue, right red."""
    out = to_uint8(fit.portrait).copy()
    size = max(out.shape[:2]) / 768
    dot, line = max(1, round(2 * size)), max(1, round(3 * size))
    at = lambda name: tuple(int(v) for v in np.round(fit.keypoints[KEYPOINT_INDEX[name]]))  # noqa: E731
    trusted = lambda *names: all(fit.confidence[KEYPOINT_INDEX[n]] > TRUSTED for n in names)  # noqa: E731

    def join(a: str, b: str, color: tuple[int, int, int], thickness: int) -> None:
        if trusted(a, b):
            cv2.line(out, at(a), at(b), color, thickness, cv2.LINE_AA)

    join("shoulder.L", "shoulder.R", MIDDLE, line)
    join("hip.L", "hip.R", MIDDLE, line)
    for side, color in (("L", LEFT), ("R", RIGHT)):
        for a, b in LIMBS:
            join(f"{a}.{side}", f"{b}.{side}", color, line)
        joints = list(HAND_JOINTS[side])
        for finger in range(1, 6):
            chain = [joints[0], *(n for n in joints if f"finger{finger}-" in n)]
            for a, b in zip(chain, chain[1:], strict=False):
                join(a, b, color, max(1, line // 2))
    for name in FACE_POINTS:
        if trusted(name):
            cv2.circle(out, at(name), dot, FACE, -1, cv2.LINE_AA)
    return out
