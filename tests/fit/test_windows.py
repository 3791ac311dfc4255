"""The windows of the fit's SSIM, against plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from avatar_core.fit.losses import SSIM_WINDOW, box_windows


def test_box_windows_are_average_pooling():
    x = torch.rand(2, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    want = F.avg_pool2d(x, SSIM_WINDOW, SSIM_WINDOW // 2)
    torch.testing.assert_close(box_windows(x), want, atol=1e-6, rtol=1e-5)
