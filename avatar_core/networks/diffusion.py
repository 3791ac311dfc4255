"""The diffusion process of motion latents: cosine schedule, x0 prediction; training and sampling share it.

Legend: B windows, W frames, D latents.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from diffusers import DDIMScheduler
from torch import Tensor

TRAIN_STEPS = 1000


def make_scheduler() -> DDIMScheduler:
    """Cosine noise schedule with x0 prediction, shared by training and sampling.

    Locked by test_sampling_steps_undo_the_noise_of_training.
    """
    with torch.device("cpu"):
        return DDIMScheduler(
            num_train_timesteps=TRAIN_STEPS,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="sample",
            clip_sample=False,
            timestep_spacing="trailing",
        )


@lru_cache(maxsize=4)
def _alphas(device: torch.device) -> Tensor:
    return make_scheduler().alphas_cumprod.to(device)


def add_noise(x: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """x_tau (B,W,D) of clean latents at timesteps (B,).

    Equation: x_tau = sqrt(abar) x + sqrt(1 - abar) eps. Locked by test_noised_latents_keep_unit_variance,
    test_signal_falls_to_nothing_along_the_schedule.
    """
    bar = _alphas(timesteps.device)[timesteps].view(-1, 1, 1)
    return bar.sqrt() * x + (1 - bar).sqrt() * noise
