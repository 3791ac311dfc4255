"""SyncNet as its authors run it: face crops, MFCC windows, the network, the search over offsets.

Source: Chung and Zisserman 2016 and joonson/syncnet_python (MIT): 25 fps, 16 kHz, crops of 224 px from a median-filtered face
track, windows of 5 frames and 20 MFCC frames, distances at +-15 frames over embeddings padded with zeros; SyncD is the least mean
distance, SyncC the median less the least. Not theirs: the face box is that of our face mesh, not S3FD's, pictures are not stored as
JPEG in between, and short clips are not refused (they ask for 100 frames).

Legend: T frames, S samples, K windows, E embedding (1024).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_core.clock import SAMPLE_RATE, SAMPLES_PER_FRAME
from avatar_core.errors import UserError
from avatar_core.metrics.networks import (
    SAFETENSORS,
    TORCHSCRIPT,
    NetworkFile,
    Run,
    Signature,
    batched,
    load_torchscript,
    try_network,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

REACH, WINDOW, MFCC_PER_FRAME = 15, 5, 4
CROP_SCALE, CROP_SIDE, MEDIAN, GREY = 0.4, 224, 13, 110
EMBEDDING = 1024
LIPS = Signature((3, WINDOW, CROP_SIDE, CROP_SIDE), (EMBEDDING,))
SOUND = Signature((1, 13, MFCC_PER_FRAME * WINDOW), (EMBEDDING,))


@dataclass(frozen=True)
class SyncNet:
    """The two halves: windows of pictures (K,3,5,224,224) BGR 0..255 and of MFCC (K,1,13,20) -> embeddings (K,E)."""

    lips: Run
    sound: Run


@lru_cache(maxsize=2)
def load_syncnet(file: NetworkFile, device: str = "cpu") -> SyncNet:
    """The weights in safetensors, or TorchScript with the methods forward_lip and forward_aud; both halves are tried.

    Raises UserError naming the file.
    """
    path = file.verified(*SAFETENSORS, *TORCHSCRIPT)
    module = _with_weights(path) if path.suffix.lower() in SAFETENSORS else load_torchscript(path, device)
    lips, sound = (getattr(module.to(device), name, None) for name in ("forward_lip", "forward_aud"))
    if lips is None or sound is None:
        raise UserError(f"{path}: expected {file.wanted}, found no methods forward_lip and forward_aud")
    halves = SyncNet(batched(lips, device), batched(sound, device))
    try_network(path, f"{file.wanted} (pictures)", halves.lips, LIPS)
    try_network(path, f"{file.wanted} (sound)", halves.sound, SOUND)
    return halves


def _with_weights(path: Path) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    module = network()
    try:
        module.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        raise UserError(
            f"{path}: expected SyncNet's weights, found {' '.join(line.strip() for line in lines[:2])[:160]}"
        ) from None
    return module.eval()


def network() -> nn.Module:
    """SyncNet without weights, with the names of tensors that its authors' file has."""
    from torch import nn

    def layer(
        kind: str, channels: tuple[int, int], kernel: object, stride: object = 1, padding: object = 0
    ) -> list[nn.Module]:
        convolution, norm = getattr(nn, f"Conv{kind}"), getattr(nn, f"BatchNorm{kind}")
        return [convolution(*channels, kernel, stride, padding), norm(channels[1]), nn.ReLU()]

    def head() -> nn.Sequential:
        return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, EMBEDDING))

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.netcnnaud = nn.Sequential(
                *layer("2d", (1, 64), 3, 1, 1), nn.MaxPool2d(1, 1),
                *layer("2d", (64, 192), 3, 1, 1), nn.MaxPool2d(3, (1, 2)),
                *layer("2d", (192, 384), 3, 1, 1), *layer("2d", (384, 256), 3, 1, 1),
                *layer("2d", (256, 256), 3, 1, 1), nn.MaxPool2d(3, 2),
                *layer("2d", (256, 512), (5, 4)),
            )  # fmt: skip
            flat, half = (1, 3, 3), (1, 2, 2)
            self.netcnnlip = nn.Sequential(
                *layer("3d", (3, 96), (5, 7, 7), half), nn.MaxPool3d(flat, half),
                *layer("3d", (96, 256), (1, 5, 5), half, (0, 1, 1)), nn.MaxPool3d(flat, half, (0, 1, 1)),
                *layer("3d", (256, 256), flat, 1, (0, 1, 1)), *layer("3d", (256, 256), flat, 1, (0, 1, 1)),
                *layer("3d", (256, 256), flat, 1, (0, 1, 1)), nn.MaxPool3d(flat, half),
                *layer("3d", (256, 512), (1, 6, 6)),
            )  # fmt: skip
            self.netfcaud, self.netfclip = head(), head()

        def forward_aud(self, x: Tensor) -> Tensor:
            return self.netfcaud(self.netcnnaud(x).flatten(1))

        def forward_lip(self, x: Tensor) -> Tensor:
            return self.netfclip(self.netcnnlip(x).flatten(1))

    return Module()


def sync_distances(
    net: SyncNet, frames: NDArray, boxes: NDArray, audio: NDArray
) -> tuple[float, float, NDArray]:
    """Frames (T,H,W,3) uint8 RGB with face boxes (T,4), sound (S,) in [-1,1] -> SyncC, SyncD, mean distance by offset (31,).

    Raises ValueError for fewer than 21 frames of both.
    """
    count = min(len(frames), len(audio) // SAMPLES_PER_FRAME) - WINDOW
    if count <= REACH:
        raise ValueError(f"clips under {WINDOW + REACH + 1} frames")
    crops = face_crops(frames[: count + WINDOW], boxes[: count + WINDOW])[..., ::-1]  # the authors read BGR
    pictures = np.concatenate(
        [
            net.lips(np.stack([crops[k : k + WINDOW].transpose(3, 0, 1, 2) for k in range(a, b)]))[0]
            for a, b in ((a, min(a + 16, count)) for a in range(0, count, 16))
        ]
    )
    bands = mfcc(np.round(audio * 32768).clip(-32768, 32767)).T
    length = MFCC_PER_FRAME * WINDOW
    windows = [bands[None, :, MFCC_PER_FRAME * k : MFCC_PER_FRAME * k + length] for k in range(count)]
    curve = offset_curve(pictures, net.sound(np.stack(windows))[0])
    return float(np.median(curve) - curve.min()), float(curve.min()), curve


def offset_curve(pictures: NDArray, sound: NDArray) -> NDArray[np.float64]:
    """Embeddings (K,E), (K,E) -> mean distance at each of the 31 offsets; beyond the ends the sound's are zeros."""
    padded = np.pad(np.asarray(sound, np.float64), ((REACH, REACH), (0, 0)))
    offsets = [padded[j : j + len(pictures)] for j in range(2 * REACH + 1)]
    return np.array([np.linalg.norm(pictures - there + 1e-6, axis=1).mean() for there in offsets])


def face_crops(frames: NDArray, boxes: NDArray) -> NDArray[np.uint8]:
    """Frames (T,H,W,3) uint8, boxes (T,4) left, top, right, bottom -> (T,224,224,3), cut as the authors' run_pipeline.py does."""
    from scipy.signal import medfilt

    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    half, x, y = (
        medfilt(track, MEDIAN)
        for track in (
            np.maximum(width, height) / 2,
            (boxes[:, 0] + boxes[:, 2]) / 2,
            (boxes[:, 1] + boxes[:, 3]) / 2,
        )
    )
    out = np.empty((len(frames), CROP_SIDE, CROP_SIDE, 3), np.uint8)
    for k, frame in enumerate(frames):
        rim = int(half[k] * (1 + 2 * CROP_SCALE))
        padded = cv2.copyMakeBorder(frame, rim, rim, rim, rim, cv2.BORDER_CONSTANT, value=(GREY,) * 3)
        row, column = y[k] + rim, x[k] + rim
        top, bottom = int(row - half[k]), int(row + half[k] * (1 + 2 * CROP_SCALE))
        left, right = (int(column + side * half[k] * (1 + CROP_SCALE)) for side in (-1, 1))
        out[k] = cv2.resize(padded[top:bottom, left:right], (CROP_SIDE, CROP_SIDE))
    return out


def mfcc(samples: NDArray) -> NDArray[np.float64]:
    """Samples (S,) as 16-bit numbers at 16 kHz -> MFCC (100 a second,13), as python_speech_features with its own values.

    Windows of 25 ms every 10 ms without taper, pre-emphasis .97, 512 points, 26 mel bands, lifter 22, log energy for the first.
    """
    from scipy.fft import dct

    length, step, points, bands, kept, lifter = 400, 160, 512, 26, 13, 22
    x = np.asarray(samples, np.float64)
    x = np.append(x[:1], x[1:] - 0.97 * x[:-1])
    count = 1 + max(0, -(-(len(x) - length) // step))
    x = np.pad(x, (0, max(0, (count - 1) * step + length - len(x))))
    windows = np.lib.stride_tricks.sliding_window_view(x, length)[::step][:count]
    power = np.abs(np.fft.rfft(windows, points)) ** 2 / points
    tiny = np.finfo(float).eps
    energy = np.log(np.where((total := power.sum(1)) == 0, tiny, total))
    mels = power @ _mel_bands(bands, points).T
    cepstrum = np.asarray(dct(np.log(np.where(mels == 0, tiny, mels)), type=2, axis=1, norm="ortho"))[
        :, :kept
    ]
    cepstrum *= 1 + lifter / 2 * np.sin(np.pi * np.arange(kept) / lifter)
    return np.concatenate([energy[:, None], cepstrum[:, 1:]], 1)


@lru_cache(maxsize=1)
def _mel_bands(bands: int, points: int) -> NDArray[np.float64]:
    """Triangles (bands, points / 2 + 1) from 0 to half the sample rate."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    edges = np.floor((points + 1) * hertz / SAMPLE_RATE)
    at = np.arange(points // 2 + 1)
    rise = (at - edges[:-2, None]) / np.maximum(edges[1:-1] - edges[:-2], 1)[:, None]
    fall = (edges[2:, None] - at) / np.maximum(edges[2:] - edges[1:-1], 1)[:, None]
    inside = (at >= edges[:-2, None]) & (at < edges[2:, None])
    return np.where(inside, np.where(at < edges[1:-1, None], rise, fall), 0.0)
