"""A whole clip from a score network that knows a few frames: windows that overlap are denoised together.

Source: Bar-Tal et al. 2023, "MultiDiffusion: fusing diffusion paths for controlled image generation", along time. All frames are
noise at once; at every step each window says what it takes its frames to be, that is averaged where windows overlap, and the clip
goes one DDIM step towards it. So no frame is the first of a window that knows nothing of the one before.

Legend: T frames of the clip, F frames of a window, H = W pixels, M mel bands. Frames are in [-1, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from avatar_core.clock import MEL_PER_FRAME
from avatar_core.score.clips import AUDIO_CONTEXT, pad_mel
from avatar_core.score.network import ScoreNetwork

LEAST = 0.3  # of the diffusion time: where sampling ends, as `ScoreNetwork.sample` says
BATCH = 16  # windows at once


def starts_of(total: int, frames: int, stride: int) -> list[int]:
    """First frames of windows that cover `total` frames, the last of them at its end."""
    last = max(0, total - frames)
    return [*range(0, last, stride), last]


@torch.no_grad()
def sample_whole(
    network: ScoreNetwork,
    log_mel: Tensor,
    reference: Tensor,
    *,
    seed: int,
    steps: int = 10,
    guidance: float = 2.0,
) -> Tensor:
    """Frames (T,3,H,W) of the reference (3,H,W) saying log_mel (4T,M), on the CPU.

    steps: of 1000 / steps of the diffusion time, until LEAST. Windows begin half a window apart. guidance: on the sound; of 1, 1.5,
    2, 3 and 4 that with which the lips of val people went best with the teacher's. A clip shorter than a window is sampled as one
    whose sound is held.
    Locked by test_a_whole_clip_is_sampled_from_windows_that_overlap.
    """
    network.eval()
    total, frames = len(log_mel) // MEL_PER_FRAME, network.frames
    length, device = max(total, frames), next(network.parameters()).device
    held = torch.cat([log_mel, log_mel[-1:].expand(MEL_PER_FRAME * length - len(log_mel), -1)])
    mel = pad_mel(held.numpy())
    starts = starts_of(length, frames, max(1, frames // 2))
    width = MEL_PER_FRAME * (frames + 2 * AUDIO_CONTEXT)
    heard = torch.stack([mel[MEL_PER_FRAME * s : MEL_PER_FRAME * s + width] for s in starts]).to(device)
    ramp = torch.minimum(torch.arange(1, frames + 1), torch.arange(frames, 0, -1)).float().to(device)
    weight, index = ramp.view(-1, 1, 1, 1), torch.tensor(starts, device=device)
    weights = sum_windows(ramp.expand(len(starts), -1)[..., None, None, None], index, length)
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(length, *reference.shape, generator=rng, device="cpu").to(device)
    seen = reference.to(device)
    hop = 1000 // steps
    clean = x
    for step in range(1000 - hop, -1, -hop):
        at = torch.tensor([step], device=device)
        alpha, sigma = (value[0] for value in network.alpha_sigma(at))
        clean = torch.zeros_like(x)
        for part in torch.arange(len(starts), device=device).split(BATCH):
            noisy = torch.stack([x[s : s + frames] for s in index[part].tolist()])
            eps = network.predict(
                noisy, at.expand(len(part)), heard[part], seen.expand(len(part), *seen.shape), guidance
            )
            clean += sum_windows(weight * (noisy - sigma * eps) / alpha, index[part], length)
        clean /= weights
        if step <= 1000 * LEAST or step < hop:
            break
        ahead, noise = (value[0] for value in network.alpha_sigma(at - hop))
        x = ahead * clean + noise * (x - alpha * clean) / sigma
    return clean[:total].clamp(-1, 1).cpu()


def sum_windows(windows: Tensor, starts: Tensor, length: int) -> Tensor:
    """Windows (B,F,...) that begin at frames (B,) -> their sum (length,...), 0 where none lies."""
    out = windows.new_zeros(length, *windows.shape[2:])
    at = starts[:, None] + torch.arange(windows.shape[1], device=starts.device)
    return out.index_add(0, at.flatten(), windows.flatten(0, 1))
