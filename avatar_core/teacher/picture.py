"""The part of a portrait that a video model is to animate: head, waist up or the whole picture, in the shape that it expects."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from avatar_core.errors import UserError
from avatar_core.io.images import read_image, to_uint8

LEAST_FACE = 24  # px from crown to chin: less cannot be animated


def framed(portrait: Path, framing: str, width: int, height: int) -> np.ndarray:
    """(height,width,3) uint8: cut out of the portrait about the largest face, as `framing` says, and filled up from its border
    where the portrait ends. Raises UserError naming the portrait: nobody's face, or too small a one.
    """
    from avatar_core.perception.holistic.keypoints import HolisticKeypoints
    from avatar_core.template.landmarks import KEYPOINT_INDEX

    image = to_uint8(read_image(portrait))
    xy, confidence = (v[0] for v in HolisticKeypoints().keypoints(image[None]))
    crown, chin = (xy[KEYPOINT_INDEX[name]] for name in ("crown", "jaw.chin"))
    head = float(np.linalg.norm(chin - crown))
    if not confidence[KEYPOINT_INDEX["jaw.chin"]] or head < LEAST_FACE:
        found = f"one of {head:.0f} px" if confidence.any() else "none"
        raise UserError(f"{portrait}: expected a face of {LEAST_FACE} px or more to animate, found {found}")
    return cut(image, box(framing, xy, confidence, crown, head, image.shape, width / height), width, height)


def box(
    framing: str,
    xy: np.ndarray,
    confidence: np.ndarray,
    crown: np.ndarray,
    head: float,
    shape: tuple[int, ...],
    aspect: float,
) -> tuple[float, float, float, float]:
    """left, top, width, height in px of a framing, of the wanted aspect. It may reach beyond the picture.

    face: the head is 60 % of the height, as in the procedural framings; waist_up: from above the crown to the hips, or to where the
    picture ends; full_body: all of the picture, wider or higher where the aspect asks for it.
    """
    from avatar_core.template.landmarks import KEYPOINT_INDEX

    picture_height, picture_width = shape[:2]
    if framing == "full_body":
        height = max(picture_height, picture_width / aspect)
        return (picture_width - height * aspect) / 2, (picture_height - height) / 2, height * aspect, height
    middle = float(crown[0])
    if framing == "face":
        height = head / 0.6
        return middle - height * aspect / 2, float(crown[1]) - 0.2 * height, height * aspect, height
    hips = [KEYPOINT_INDEX[f"hip.{side}"] for side in "LR"]
    bottom = float(xy[hips, 1].mean()) if confidence[hips].min() > 0.3 else float(crown[1]) + 3.6 * head
    top = float(crown[1]) - 0.25 * head
    height = min(bottom, picture_height) - top
    return middle - height * aspect / 2, top, height * aspect, height


def cut(image: np.ndarray, area: tuple[float, float, float, float], width: int, height: int) -> np.ndarray:
    """An area (left, top, width, height) of a picture as (height,width,3), its border held outside."""
    left, top, across, down = area
    scale = np.array([across / width, down / height])
    if scale.max() > 1:
        image = cv2.GaussianBlur(image, (0, 0), 0.4 * float(scale.max()))
    shift = np.array([left, top]) + 0.5 * scale - 0.5
    place = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, place, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
