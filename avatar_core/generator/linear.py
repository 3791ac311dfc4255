"""A linear reading of the sound: the face's latents by ridge regression on a window of audio features.

Fitted in closed form on the training clips. On voices that the training clips know a network reads lips better; on voices that
they do not know a strongly regularised linear map does, because it keeps to the few directions of the features in which sounds
differ most, and those are the same for a synthesiser and for people. Their mixture is as good as the network on the first and as
good as the linear map on the second, so that is what the sampler gives (`GeneratorConfig.linear`). It is fitted on recordings
as they are, without takes: those make the map worse on people, and the network knows noise.

Shapes: B windows, T frames at 25 fps, 4T feature frames at 100 Hz, M features, F latents of the face, R frames to either side,
P = (2R+1) M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core.clock import MEL_PER_FRAME
from avatar_core.embed.batches import LatentClip, some_clips
from avatar_core.generator.config import LinearConfig


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
    clips: Sequence[LatentClip],
    silence: Tensor,
    neutral: Tensor,
    face: slice,
    config: LinearConfig,
) -> None:
    """Set the reading's buffers: ridge regression of the clips that show the face, and of silence (N,4W,M) with a face at rest.

    neutral (D,): latents of the person at rest.

    Equation: W = argmin sum_n w_n |y_n - W p_n|^2 + ridge N |W|^2, p and y about their means, N = sum w_n.
    Locked by test_the_linear_reading_is_the_ridge_solution.
    """
    device, faces = reading.weight.device, [clip for clip in clips if clip.visible["face"]]
    if not faces:
        return

    spoken = torch.cat(
        [torch.from_numpy(np.asarray(clip.audio, np.float32)) for clip in some_clips(faces)]
    ).to(device)
    reading.mean.copy_(spoken.mean(0))
    reading.deviation.copy_(spoken.std(0) + 1e-3)
    window = silence.shape[1] // MEL_PER_FRAME
    rest = neutral[face].double().to(device).expand(window, -1)
    total = sum(float(clip_confidence(clip).sum()) for clip in faces)
    quiet = rest.new_full((window,), total * config.silence / (len(silence) * window))
    for _ in silence:
        total += float(quiet.sum())

    def rows() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features (4T,M), y (T,F) and weights (T,) of one clip after the other: read anew for every sum over them."""
        for clip in faces:
            heard = torch.from_numpy(np.asarray(clip.audio, np.float32)).to(device)
            y = torch.from_numpy(np.asarray(clip.x, np.float64)[:, face]).to(device)
            yield heard, y, clip_confidence(clip).to(device)
        yield from ((heard, rest, quiet) for heard in silence.to(device))

    middle = torch.stack([w @ y for _, y, w in rows()]).sum(0) / total
    size = len(reading.weight)
    gram, mean = spoken.new_zeros(size, size), middle.new_zeros(size)
    cross = middle.new_zeros(size, len(middle))
    for heard, y, w in rows():
        p = reading.windows(heard[None])[0]
        gram += p.T @ (p * w[:, None].float())
        cross += p.double().T @ ((y - middle) * w[:, None])
        mean += p.double().T @ w
    mean /= total
    gram = gram.double() - total * torch.outer(mean, mean)
    gram.diagonal().add_(config.ridge * total)
    solved = torch.linalg.solve(gram, cross)
    reading.weight.copy_(solved)
    reading.bias.copy_(middle - mean @ solved)


def clip_confidence(clip: LatentClip) -> Tensor:
    """(T,) double, of its fit; 1 where none was kept."""
    given = np.ones(len(clip.x)) if clip.confidence is None else np.asarray(clip.confidence)
    return torch.from_numpy(given).double()
