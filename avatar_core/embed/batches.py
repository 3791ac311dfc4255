"""What the networks of motion are trained on: windows of sound and latents, drawn from clips and from a bank of silence.

A window is read when it is drawn: clips may lie on disk (`io.rows`), and memory does not grow with their number.

Few clips hold enough silence for the mouth to learn to stay shut, so a share of the windows is silence, noise or music with
shut lips as the target.

Shapes: B windows, W frames a window, T frames a clip, D latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar_core.audio.backends import AudioFeatures
from avatar_core.audio.backgrounds import coloured_noise, in_room, music
from avatar_core.audio.mel import CLEAN
from avatar_core.clock import MEL_PER_FRAME, SAMPLES_PER_FRAME
from avatar_core.embed.codec import MotionCodec
from avatar_core.embed.config import BatchConfig
from avatar_core.errors import UserError
from avatar_core.io.rows import Rows

STATISTICS_FRAMES = 12_000  # that means and deviations are taken over, 8 minutes
SILENCE_FRAMES = 4096  # silence has no first frame: any of so many
UNTOUCHED = 0.25  # share of windows that come from the recording itself where there are takes of it


@dataclass(frozen=True)
class LatentClip:
    """Audio features (4T,M), latents x (T,D), what the clip shows (visible, see codec), confidence (T,) or None.

    takes (V,4T,M): features of the same words in other voices and rooms, for training; None as well as V = 0 mean none.
    """

    audio: np.ndarray | Rows
    x: np.ndarray | Rows
    visible: Mapping[str, bool]
    confidence: np.ndarray | Rows | None = None
    takes: np.ndarray | Rows | None = None


def some_clips(clips: Sequence[LatentClip], most_frames: int = STATISTICS_FRAMES) -> list[LatentClip]:
    """Clips from all over the sequence, with at most so many frames together, and at least one: all of few."""
    total, chosen, frames = sum(len(clip.x) for clip in clips), [], 0
    every = max(1, -(-total // most_frames))
    for clip in clips[::every]:
        frames += len(clip.x)
        if frames > most_frames and chosen:
            break
        chosen.append(clip)
    return chosen


class Batches:
    """Windows drawn from the clips and from a bank of silence, on the CPU; all randomness comes from the rng given to draw."""

    def __init__(
        self,
        clips: Sequence[LatentClip],
        codec: MotionCodec,
        config: BatchConfig,
        features: AudioFeatures = CLEAN,
    ) -> None:
        if not clips:
            raise UserError("generator: expected at least one training clip, found none")
        self.config = config
        weights = {"face": config.face, "head": config.head, "body": config.body, "hand": config.hand}
        ids: dict[tuple, int] = {}
        metrics = [codec.lips_metric() * config.face**0.5]  # id 0: silence, only the lips are known
        masks = [codec.latent_mask({"head": False, "body": False, "face": True, "hand": False})]
        self.visibility_ids = []
        for clip in clips:
            key = tuple(sorted((k, bool(v)) for k, v in clip.visible.items()))
            if key not in ids:
                ids[key] = len(metrics)
                metrics.append(codec.loss_metric(clip.visible, weights))
                masks.append(codec.latent_mask(clip.visible))
            self.visibility_ids.append(ids[key])
        self.loss_metrics = torch.stack(metrics)  # (ids,D,D)
        self.latent_masks = torch.stack(masks)  # (ids,D)
        self.has_lips = torch.tensor([True, *(bool(dict(k)["face"]) for k in ids)], device="cpu")
        self.clips = clips
        self.lengths = [len(c.x) for c in clips]
        self.share = torch.tensor([float(n) for n in self.lengths], device="cpu")
        self.neutral = codec.neutral()
        self.silence = silence_bank(config.window, config.seed, features)

    def draw(self, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Audio features (B,4W,M), x (B,W,D), weight (B,W), visibility_id (B,), first frame in its clip (B,1), in silence any."""
        config, window = self.config, self.config.window
        chosen = torch.multinomial(self.share, config.batch, replacement=True, generator=rng).tolist()
        place, take, untouched, silent = (
            torch.rand(config.batch, generator=rng, device="cpu") for _ in range(4)
        )
        mels, xs, weights, ids, firsts = [], [], [], [], []
        for clip, where, which, is_untouched, is_silent in zip(
            chosen,
            place.tolist(),
            take.tolist(),
            (untouched < UNTOUCHED).tolist(),
            (silent < config.silence).tolist(),
            strict=True,
        ):
            if is_silent:
                mels.append(self.silence[int(where * len(self.silence))])
                xs.append(self.neutral.expand(window, -1))
                weights.append(torch.ones(window, device="cpu"))
                ids.append(0)
                firsts.append(int(where * SILENCE_FRAMES))
                continue
            first = self._first(clip, where)
            found = self._window(clip, first, None if is_untouched else which)
            for values, value in zip((mels, xs, weights), found, strict=True):
                values.append(value)
            ids.append(self.visibility_ids[clip])
            firsts.append(first)
        known, first = (torch.tensor(numbers, device="cpu") for numbers in (ids, firsts))
        return torch.stack(mels), torch.stack(xs), torch.stack(weights), known, first[:, None]

    def _first(self, number: int, where: float) -> int:
        """First frame of the window at a share of a clip; clips shorter than a window hold their last frame."""
        pad, window = self.config.edge, self.config.window
        return int(where * (max(window, self.lengths[number] + 2 * pad) - window + 1)) - pad

    def _window(self, number: int, start: int, which: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """Features (4W,M), x (W,D) and weight (W,) of a clip from a frame on: a share of its takes, or the recording."""
        clip, window = self.clips[number], self.config.window
        takes = () if clip.takes is None or which is None else clip.takes
        heard = takes[int((which or 0.0) * len(takes))] if len(takes) else clip.audio
        weight = torch.ones(window, device="cpu")
        if clip.confidence is not None:
            weight = _held(clip.confidence, start, window)
        return (
            _held(heard, MEL_PER_FRAME * start, MEL_PER_FRAME * window),
            _held(clip.x, start, window),
            weight,
        )


def silence_bank(window: int, seed: int, features: AudioFeatures, count: int = 60) -> Tensor:
    """Features (count,4W,M) of windows in which nobody speaks: digital silence, faint noise, loud noise, music."""
    rng = np.random.default_rng([seed, 77])
    bank, samples = [], window * SAMPLES_PER_FRAME
    for number in range(count):
        kind = number % 6
        if kind == 0:
            sound = np.zeros(samples)
        elif kind < 4:
            sound = coloured_noise(rng, samples)
        else:
            sound = music(rng, samples)
        if rng.random() < 0.3:
            sound = in_room(rng, sound)
        low, high = (-75, -45) if kind < 3 else (-45, -15)
        sound = sound * 10 ** (rng.uniform(low, high) / 20)
        bank.append(features.hear(torch.from_numpy(sound.astype(np.float32))))
    return torch.stack(bank)


def _held(values: np.ndarray | Rows, start: int, count: int) -> Tensor:
    """Rows start .. start + count as float32; before the first and after the last these are held."""
    rows = np.clip(np.arange(start, start + count), 0, len(values) - 1)
    return torch.from_numpy(np.asarray(values[int(rows[0]) : int(rows[-1]) + 1], np.float32)[rows - rows[0]])
