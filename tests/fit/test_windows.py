"""The windows of the fit's SSIM, and its mask loss, against plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from avatar_core.fit.losses import SSIM_WINDOW, box_windows, mask_loss


def test_box_windows_are_average_pooling():
    x = torch.rand(2, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    want = F.avg_pool2d(x, SSIM_WINDOW, SSIM_WINDOW // 2)
    torch.testing.assert_close(box_windows(x), want, atol=1e-6, rtol=1e-5)


def test_mask_loss_is_the_uncovered_and_the_overdrawn_area():
    mask = torch.zeros(1, 4, 4)
    mask[:, :2] = 1
    alpha = torch.zeros(1, 4, 4)
    alpha[:, 1:3] = 1
    assert mask_loss(alpha, mask) == 0.5
    assert mask_loss(mask, mask) == 0
