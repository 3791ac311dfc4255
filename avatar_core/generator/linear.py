"""A linear reading of the sound: the face's latents by ridge regression on a window of audio features.

Fitted in closed form on the training windows. On voices that the training clips know a network reads lips better; on voices that
they do not know a strongly regularised linear map does, because it keeps to the few directions of the features in which sounds
differ most, and those are the same for a synthesiser and for people. Their mean is as good as the network on the first and nearly
as good as the linear map on the second, so that is what the sampler gives (`GeneratorConfig.linear`). It is fitted on recordings
as they are, without takes: those make the map worse on people, and the network knows noise.

Shapes: B windows, T frames at 25 fps, 4T feature frames at 100 Hz, M features, F latents of the face, R frames to either side,
P = (2R+1) M.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avatar_core.clock import MEL_PER_FRAME
from avatar_core.embed.batches import Batches
from avatar_core.generator.config import LinearConfig

SILENCE = (
    3.0  # weight of a silent window's frames: a linear map has no other way to learn to keep the lips shut
)


class LinearReading(nn.Module):
    """forward(features (B,4T,M)) -> latents of the face (B,T,F). Zero until `fit_linear`."""

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, features: int, radius: int, latents: int) -> None:
        super().__init__()
        self.radius = radius
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("weight", torch.zeros((2 * radius + 1) * features, latents))  # (P,F)
        self.register_buffer("bias", torch.zeros(latents))

    def forward(self, features: Tensor) -> Tensor:
        return self.windows(features) @ self.weight + self.bias

    def windows(self, features: Tensor) -> Tensor:
        """(B,4T,M) -> (B,T,P): the frames' means, normalised, each with its neighbours; beyond the ends the mean feature."""
        frames = features.unflatten(1, (-1, MEL_PER_FRAME)).mean(2)  # (B,T,M)
        padded = nn.functional.pad((frames - self.mean) / self.deviation, (0, 0, self.radius, self.radius))
        return padded.unfold(1, 2 * self.radius + 1, 1).flatten(2)


def fit_linear(
    reading: LinearReading,
    batches: Batches,
    face: slice,
    config: LinearConfig,
    rng: torch.Generator,
) -> None:
    """Set the reading's buffers from `config.batches` drawn batches: ridge regression of what clips that show the face hold.

    Equation: W = argmin sum_n w_n |y_n - W p_n|^2 + ridge N |W|^2, p and y about their means, N = sum w_n.
    Locked by test_the_linear_reading_is_the_ridge_solution.
    """
    drawn = [batches.draw(rng) for _ in range(config.batches)]
    device = reading.weight.device
    heard = torch.cat([mel for mel, *_ in drawn]).to(device)  # (N,4W,M)
    target = torch.cat([x[..., face] for _, x, _, _ in drawn]).to(device).flatten(0, 1).double()
    counts = batches.has_lips.double()  # by visibility; 0 is silence
    counts[0] = SILENCE
    weight = torch.cat([w * counts[v][:, None] for _, _, w, v in drawn]).to(device).flatten().double()
    total = weight.sum().clamp_min(1e-9)
    reading.mean.copy_(heard.mean((0, 1)))
    reading.deviation.copy_(heard.std((0, 1)) + 1e-3)
    size = len(reading.weight)
    gram, cross = heard.new_zeros(size, size), target.new_zeros(size, target.shape[1])
    mean, middle = target.new_zeros(size), (weight @ target) / total
    rows = target.reshape(len(heard), -1, target.shape[1])
    for part, y, w in zip(
        heard.split(64), rows.split(64), weight.reshape(len(heard), -1).split(64), strict=True
    ):
        p, w = reading.windows(part).flatten(0, 1), w.flatten()
        gram += p.T @ (p * w[:, None].float())
        cross += p.double().T @ ((y.flatten(0, 1) - middle) * w[:, None])
        mean += p.double().T @ w
    mean /= total
    gram = gram.double() - total * torch.outer(mean, mean)
    gram.diagonal().add_(config.ridge * total)
    solved = torch.linalg.solve(gram, cross)
    reading.weight.copy_(solved)
    reading.bias.copy_(middle - mean @ solved)
