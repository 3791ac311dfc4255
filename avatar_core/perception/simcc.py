"""DWPose's and RTMW's way of placing points: a box of a picture in, for every point bins along x and along y out; as rtmlib has it.

Legend: N pictures, P points, H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # of RGB, 0..255
STD = np.array([58.395, 57.12, 57.375], np.float32)
PADDING, SPLIT = 1.25, 2  # of the box; bins a pixel
HANDS = slice(91, 133)  # of COCO-WholeBody's 133 points
# HKC, hand keypoint confidence, has no public definition (CyberHost, Lin et al. 2024, names it). Ours: the detector's scores of the
# 42 points of both hands, in [0,1], their mean over points and pictures. hkc-1 took the lesser of the two maxima as a score.
HKC_VERSION = "hkc-2"


def pose_input(
    picture: NDArray, box: NDArray, width: int, height: int
) -> tuple[NDArray[np.float32], NDArray]:
    """The person in a box x0 y0 x1 y1 of a picture (H,W,3) uint8 RGB -> (3,height,width) float32, black outside, and the affine
    map (2,3) of its pixels to the picture's."""
    centre, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * PADDING
    scale = max(side[0] / width, side[1] / height)
    corner = centre - scale * np.array([width, height]) / 2
    place = np.array([[scale, 0, corner[0]], [0, scale, corner[1]]])
    crop = cv2.warpAffine(picture, place, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return ((crop.astype(np.float32) - MEAN) / STD).transpose(2, 0, 1), place


def pose_output(across: NDArray, down: NDArray) -> tuple[NDArray, NDArray]:
    """Bins (N,P,2 W) and (N,P,2 H) -> pixels (N,P,2) of the network's input, scores (N,P) in [0,1]: the mean of both maxima."""
    bins = np.stack([across.argmax(-1), down.argmax(-1)], -1)
    return bins / SPLIT, np.mean([across.max(-1), down.max(-1)], 0).clip(0, 1)


def hand_confidence(scores: NDArray) -> float:
    """HKC of scores (N,42) of the points of both hands."""
    return float(scores.mean())
