"""PSNR and SSIM between frames, whole or under a mask.

Sources: PSNR is 10 log10(1/MSE) on display values in [0,1]; SSIM is Wang et al. 2004, "Image quality assessment:
from error visibility to structural similarity": Gaussian window 11 px, sigma 1.5, K1 .01, K2 .03, per channel.

Legend: T frames, H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

PSNR_CAP = 100.0  # dB, reported for identical images instead of infinity


def _pair(image: NDArray, truth: NDArray) -> tuple[NDArray, NDArray]:
    if image.shape != truth.shape:
        raise ValueError(f"images to compare: expected equal shapes, found {image.shape} and {truth.shape}")
    return np.asarray(image, np.float64), np.asarray(truth, np.float64)


def psnr(image: NDArray, truth: NDArray, mask: NDArray | None = None) -> float:
    """Images (H,W,3) in [0,1] -> dB, at most PSNR_CAP. `mask` (H,W): weights, e.g. the foreground.

    Locked by test_psnr_known_values.
    """
    image, truth = _pair(image, truth)
    square = ((image - truth) ** 2).mean(-1)
    if mask is None:
        error = float(square.mean())
    else:
        total = float(np.sum(mask))
        if total <= 0:
            raise ValueError("psnr mask: expected some positive weight, found none")
        error = float((square * mask).sum() / total)
    return PSNR_CAP if error <= 10 ** (-PSNR_CAP / 10) else float(-10 * np.log10(error))


def ssim_map(image: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """Images (H,W,3) in [0,1] -> local SSIM (H,W), channel mean.

    Locked by test_ssim_one_for_equal_and_falls_with_damage.
    """
    image, truth = _pair(image, truth)

    def mean(x: NDArray) -> NDArray:
        return cv2.GaussianBlur(x, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)

    c1, c2 = 0.01**2, 0.03**2
    mu1, mu2 = mean(image), mean(truth)
    var1, var2 = mean(image**2) - mu1**2, mean(truth**2) - mu2**2
    both = mean(image * truth) - mu1 * mu2
    value = (2 * mu1 * mu2 + c1) * (2 * both + c2) / ((mu1**2 + mu2**2 + c1) * (var1 + var2 + c2))
    return value.mean(-1) if value.ndim == 3 else value


def ssim(image: NDArray, truth: NDArray, mask: NDArray | None = None) -> float:
    """Images (H,W,3) in [0,1] -> mean SSIM, 1 for identical. `mask` (H,W) as in `psnr`.

    Locked by test_ssim_one_for_equal_and_falls_with_damage.
    """
    local = ssim_map(image, truth)
    if mask is None:
        return float(local.mean())
    total = float(np.sum(mask))
    if total <= 0:
        raise ValueError("ssim mask: expected some positive weight, found none")
    return float((local * mask).sum() / total)
