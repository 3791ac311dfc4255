"""What published networks are fed: resizing, ranges and alignment as their authors' code has them.

tests/metrics/test_preprocess.py holds each to numbers that the reference packages gave.

Legend: B pictures, T frames, H W pixels. Pictures are uint8, or floats in [0,1].
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_core.perception.face_identity import similarity

INCEPTION_SIDE, I3D_SIDE, QALIGN_SIDE, ARCFACE_SIDE = 299, 224, 448, 112
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
ARCFACE_POINTS = np.array(  # of insightface: eye and eye, nose, corner and corner of the mouth, left to right in the picture
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def inception_input(frames: NDArray) -> NDArray[np.float32]:
    """Pictures (B,H,W,3) -> (B,3,299,299) in [-1,1]: bilinear without antialiasing, as pytorch-fid does."""
    return 2 * _bilinear(frames, INCEPTION_SIDE, INCEPTION_SIDE) - 1


def i3d_input(frames: NDArray) -> NDArray[np.float32]:
    """Frames (T,H,W,3) -> (3,T,224,224) in [-1,1]: the shorter side to 224 (bilinear), the middle, as StyleGAN-V does."""
    height, width = frames.shape[1:3]
    scale = I3D_SIDE / min(height, width)
    wide = height < width
    size = (I3D_SIDE, math.ceil(width * scale)) if wide else (math.ceil(height * scale), I3D_SIDE)
    small = _bilinear(frames, *size)
    top, left = ((side - I3D_SIDE) // 2 for side in size)
    middle = small[:, :, top : top + I3D_SIDE, left : left + I3D_SIDE]
    return np.ascontiguousarray((2 * middle - 1).transpose(1, 0, 2, 3))


def _bilinear(frames: NDArray, height: int, width: int) -> NDArray[np.float32]:
    """(B,H,W,3) -> (B,3,height,width) in [0,1]."""
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    x = x.float() / 255 if frames.dtype == np.uint8 else x.float()
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False).numpy()


def qalign_input(frames: NDArray) -> NDArray[np.float32]:
    """Pictures (B,H,W,3) uint8 -> (B,3,448,448): padded to a square with CLIP's mean colour, bicubic, CLIP's mean and spread."""
    from PIL import Image

    height, width = frames.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.empty((side, side, 3), np.uint8)
    square[:] = [int(255 * m) for m in CLIP_MEAN]
    out = np.empty((len(frames), 3, QALIGN_SIDE, QALIGN_SIDE), np.float32)
    for k, frame in enumerate(frames):
        square[top : top + height, left : left + width] = frame
        small = Image.fromarray(square).resize((QALIGN_SIDE, QALIGN_SIDE), Image.Resampling.BICUBIC)
        values = np.asarray(small, np.float32) / 255
        out[k] = ((values - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_STD, np.float32)).transpose(
            2, 0, 1
        )
    return out


def arcface_matrix(points: NDArray) -> NDArray[np.float64]:
    """Five points (5,2) px, in the order of ARCFACE_POINTS -> the similarity (2,3) onto 112 x 112 px."""
    a, b = similarity(points, ARCFACE_POINTS)
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def arcface_input(frame: NDArray, points: NDArray) -> NDArray[np.float32]:
    """A picture (H,W,3) uint8 and its five points (5,2) -> the aligned face (3,112,112) in [-1,1], black outside."""
    side = (ARCFACE_SIDE, ARCFACE_SIDE)
    face = cv2.warpAffine(frame, arcface_matrix(points), side, flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0))
    return ((face.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)
