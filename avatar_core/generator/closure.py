"""Lips that shut on p, b, m: how likely the sound has them pressed, and how far they are drawn shut for it.

A closure lasts two or three frames, and where it is doubtful a network that regresses motion leaves the mouth half open: of the
p, b, m of people, whom it has not heard in training, it shut half. Whether lips are pressed is a plain question with a plain
answer in the fits, and a logistic regression on a few frames of sound answers it for people nearly as well as for the voices of
the training clips. Its answer is no motion of its own: it draws the lips that were generated shut, along what the face does when
this mouth opens, and leaves them where they are elsewhere.

It asks only about frames near open lips. In silence lips are shut as well; learnt along, silence would be most of what it knows.

Shapes: B windows, T frames at 25 fps, 4T feature frames at 100 Hz, M features, F latents of the face, P = (2R+1) M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from avatar_core.embed.batches import LatentClip, some_clips
from avatar_core.generator.config import ClosureConfig
from avatar_core.generator.linear import LinearReading, clip_confidence

if TYPE_CHECKING:
    from avatar_core.embed.codec import MotionCodec

NEWTON_STEPS = 12


class LipClosure(nn.Module):
    """forward(features (B,4T,M)) -> how far lips are drawn shut (B,T), 0 to 1. Draws nothing until `fit_closure`."""

    row: Tensor
    rest: Tensor
    along: Tensor

    def __init__(self, features: int, config: ClosureConfig, latents: int) -> None:
        super().__init__()
        self.config = config
        self.reading = LinearReading(features, config.radius, 1)  # log odds
        self.register_buffer("row", torch.zeros(latents))  # aperture = face @ row + a constant, metres
        self.register_buffer("rest", torch.zeros(()))  # face @ row of the person at rest
        self.register_buffer("along", torch.zeros(latents))  # what the face does as lips open by a metre

    def forward(self, features: Tensor) -> Tensor:
        low, high = self.config.low, self.config.high
        share = ((torch.sigmoid(self.reading(features)[..., 0]) - low) / (high - low)).clamp(0, 1)
        return share.square() * (3 - 2 * share)

    def shut(self, face: Tensor, share: Tensor) -> Tensor:
        """Latents (...,F) whose lips are drawn by `share` (...) of the way to `depth` below their rest; none is opened.

        Locked by test_lips_are_drawn_shut_and_never_open.
        """
        over = (face @ self.row - self.rest + self.config.depth).clamp_min(0)
        return face - (share * over)[..., None] * self.along


def fit_closure(closure: LipClosure, clips: Sequence[LatentClip], codec: MotionCodec) -> None:
    """Set the buffers from the clips that show the face: recordings as they are, without takes.

    Equation: argmin_v sum_n w_n log(1 + exp(-y_n (v p_n + c))) / N + decay |v|^2, y = 1 where lips are pressed by `pressed` and -1
    elsewhere, w the fit's confidence near open lips and 0 elsewhere, N = sum w_n, by Newton's method; along = cov(x, a) / var(a).
    Locked by test_the_closure_is_the_regularised_logistic_solution.
    """
    config, device, face = closure.config, closure.row.device, codec.slices["face"]
    row, _ = codec.aperture_row()
    closure.row.copy_(row)
    closure.rest.copy_(codec.neutral()[face] @ row)
    row, rest = closure.row.double(), closure.rest.double()
    reading, faces = closure.reading, [clip for clip in clips if clip.visible["face"]]

    def rows() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """x (T,F), aperture over rest (T,), weights of the question (T,) and of the clip (T,), all double; and features."""
        for clip in faces:
            x = torch.from_numpy(np.asarray(clip.x, np.float64)[:, face]).to(device)
            sure, opened = clip_confidence(clip).to(device), x @ row - rest
            near = nn.functional.max_pool1d(
                (opened > config.opened).double()[None], 2 * config.near + 1, 1, config.near
            )[0]
            yield x, opened, sure * near, sure

    def heard() -> Iterator[Tensor]:
        for clip in faces:
            yield torch.from_numpy(np.asarray(clip.audio, np.float32)).to(device)

    asked = sum(float(w.sum()) for _, _, w, _ in rows())
    pressed = sum(float((w * (a < -config.pressed)).sum()) for _, a, w, _ in rows())
    if not 0 < pressed < asked:
        return  # nobody closes the lips: nothing to learn
    sums = [torch.stack([s.sum(), (s @ a), (s @ a.square())]) for _, a, _, s in rows()]
    total, first, second = torch.stack(sums).sum(0)
    middle = torch.stack([s @ x for x, _, _, s in rows()]).sum(0) / total
    joint = torch.stack([(s * a) @ x for x, a, _, s in rows()]).sum(0) / total
    mean = first / total
    closure.along.copy_((joint - mean * middle) / (second / total - mean.square()).clamp_min(1e-12))

    spoken = torch.cat([torch.from_numpy(np.asarray(c.audio, np.float32)) for c in some_clips(faces)])
    reading.mean.copy_(spoken.mean(0))
    reading.deviation.copy_(spoken.std(0) + 1e-3)
    size = len(reading.weight)
    v = torch.zeros(size + 1, dtype=torch.float64, device=device)  # the last is the bias
    decay = torch.full_like(v, 2 * config.decay)
    decay[-1] = 0.0
    for _ in range(NEWTON_STEPS):
        slope, curve = decay * v, torch.diag(decay)
        for sound, (_, a, w, _) in zip(heard(), rows(), strict=True):
            p = nn.functional.pad(reading.windows(sound[None])[0].double(), (0, 1), value=1.0)[: len(a)]
            odds = torch.sigmoid(p @ v)
            slope = slope + p.T @ (w * (odds - (a < -config.pressed).double())) / asked
            curve = curve + p.T @ (p * (w * odds * (1 - odds))[:, None]) / asked
        v = v - torch.linalg.solve(curve, slope)
    reading.weight.copy_(v[:-1, None])
    reading.bias.copy_(v[-1:])
