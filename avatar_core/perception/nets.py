"""Network shapes of the critics: small CNNs for keypoints and embeddings that run on one CPU core.

Keypoints are heatmaps read by soft-argmax (integral regression; Sun et al. 2018, "Integral Human Pose
Regression"), which is sub-pixel. The backbone is a depthwise-separable pyramid (MobileNet blocks; Howard et
al. 2017) with top-down additions (FPN; Lin et al. 2017). The two-stream sync network follows SyncNet (Chung
and Zisserman 2016): five mouth frames against 0.2 s of log-mel.

Legend: B batch, C channels, H W pixels, K keypoints, E embedding, T frames, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SeparableBlock(nn.Module):
    """Depthwise 3x3 then pointwise 1x1, residual when the shape allows. (B,Cin,H,W) -> (B,Cout,H/s,W/s)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels_in, channels_in, 3, stride=stride, padding=1, groups=channels_in, bias=False
        )
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.depthwise(x)))
        y = self.norm2(self.pointwise(y))
        return F.relu(y + x) if self.residual else F.relu(y)


class DenseBlock(nn.Module):
    """Residual dense 3x3 convolution; used where the map is small and channels are what is needed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))


class Pyramid(nn.Module):
    """Image -> feature maps at strides 4, 8, 16, 32. Input (B,Cin,H,W) in [0,1], H and W multiples of 32."""

    def __init__(self, channels_in: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4 * channels_in, widths[0], 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        stages = []
        for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            layers: list[nn.Module] = []
            if level:
                layers.append(SeparableBlock(widths[level - 1], width, stride=2))
            for _ in range(count):
                layers.append(DenseBlock(width) if level >= 2 else SeparableBlock(width, width))
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        # Space-to-depth first: a stride-4 stem that sees every pixel at the price of one small convolution.
        x = F.pixel_unshuffle((image - 0.5) / 0.25, 2)
        x = F.relu(self.stem_norm(self.stem(x)))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class KeypointNet(nn.Module):
    """Square RGB image (B,3,S,S) in [0,1] -> pixel positions (B,K,2), confidence logits (B,K), heat logits
    (B,K,h*w).

    Positions are in input pixels (centres at +0.5). Confidence is the logit of the probability that the
    predicted point lies within the training radius of the true one, learnt on the net's own errors.
    """

    grid: Tensor  # (h*w,2) cell centres in input pixels

    def __init__(
        self,
        points: int,
        size: int,
        stride: int = 4,
        widths: Sequence[int] = (32, 64, 96, 128),
        blocks: Sequence[int] = (1, 2, 2, 2),
        neck: int = 48,
    ) -> None:
        super().__init__()
        if stride not in (4, 8):
            raise ValueError(f"KeypointNet stride (pixels per heatmap cell): expected 4 or 8, found {stride}")
        if size % 32:
            raise ValueError(f"KeypointNet size: expected a multiple of 32, found {size}")
        self.size, self.stride = size, stride
        self.first = 0 if stride == 4 else 1  # finest pyramid level that is read
        self.pyramid = Pyramid(3, widths, blocks)
        self.lateral = nn.ModuleList(nn.Conv2d(w, neck, 1) for w in widths[self.first :])
        self.smooth = nn.ModuleList(SeparableBlock(neck, neck) for _ in widths[self.first : -1])
        self.final = SeparableBlock(neck, neck)
        self.heat = nn.Conv2d(neck, points, 1)
        self.confidence = nn.Parameter(torch.zeros(points, neck))
        self.confidence_bias = nn.Parameter(torch.zeros(points))
        centres = (torch.arange(size // stride, dtype=torch.float32) + 0.5) * stride
        ys, xs = torch.meshgrid(centres, centres, indexing="ij")
        self.register_buffer("grid", torch.stack([xs, ys], -1).view(-1, 2), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.pyramid(image)[self.first :]
        x = self.lateral[-1](maps[-1])
        for level in range(len(maps) - 2, -1, -1):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") + self.lateral[level](maps[level])
            x = self.smooth[level](x)
        x = self.final(x)
        logits = self.heat(x).flatten(2)  # (B,K,h*w)
        heat = torch.softmax(logits, dim=-1)
        xy = heat @ self.grid
        # Features seen at the predicted place decide how far the prediction can be trusted.
        seen = torch.bmm(heat.detach(), x.flatten(2).transpose(1, 2))  # (B,K,neck)
        confidence = (seen * self.confidence).sum(-1) + self.confidence_bias
        return xy, confidence, logits


class ImageEncoder(nn.Module):
    """Square image (B,Cin,S,S) in [0,1] -> pooled features (B,E)."""

    def __init__(
        self,
        channels_in: int,
        out: int,
        widths: Sequence[int] = (32, 64, 96, 128),
        blocks: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(channels_in, widths, blocks)
        self.project = nn.Linear(2 * widths[-1], out)

    def forward(self, image: Tensor) -> Tensor:
        top = self.pyramid(image)[-1]
        # Mean keeps "how much", maximum keeps "is there any": artefacts are often small.
        return self.project(torch.cat([top.mean((2, 3)), top.amax((2, 3))], -1))


class AudioEncoder(nn.Module):
    """Log-mel window (B,20,80) -> (B,E). 20 frames at 100 Hz are the 0.2 s of five video frames."""

    mel_mean: Tensor
    mel_std: Tensor

    def __init__(self, out: int, bands: int = 80, width: int = 128) -> None:
        super().__init__()
        self.register_buffer("mel_mean", torch.zeros(bands))
        self.register_buffer("mel_std", torch.ones(bands))
        self.net = nn.Sequential(
            nn.Conv1d(bands, width, 5, padding=2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * 5, out),
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        x = (log_mel - self.mel_mean) / self.mel_std
        return self.net(x.transpose(1, 2))


class SyncNet(nn.Module):
    """Five RGB mouth crops (B,5,3,64,64) and log-mel (B,20,80) -> unit embeddings (B,E), (B,E)."""

    def __init__(self, embedding: int = 64) -> None:
        super().__init__()
        self.video = ImageEncoder(15, embedding, widths=(48, 64, 96, 128), blocks=(1, 1, 1, 1))
        self.audio = AudioEncoder(embedding)
        self.log_temperature = nn.Parameter(torch.tensor(2.3))

    def embed_video(self, mouths: Tensor) -> Tensor:
        """Mouth windows (B,5,3,H,W) -> unit embeddings (B,E)."""
        return F.normalize(self.video(mouths.flatten(1, 2)), dim=-1)

    def embed_audio(self, log_mel: Tensor) -> Tensor:
        """Log-mel windows (B,20,M) -> unit embeddings (B,E)."""
        return F.normalize(self.audio(log_mel), dim=-1)


class IdentityNet(nn.Module):
    """Head crop (B,3,96,96) -> unit embedding (B,E)."""

    def __init__(self, embedding: int = 64) -> None:
        super().__init__()
        self.encoder = ImageEncoder(3, embedding, widths=(40, 64, 96, 160), blocks=(1, 2, 2, 2))

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(self.encoder(image), dim=-1)


class FrameNet(nn.Module):
    """Whole frame (B,3,128,128) -> features (B,E) for FID, quality (B,) and aesthetics (B,) in [1,5].

    `attributes` (B,A) and `layout` (B,L) are auxiliary outputs that give the features content in training.
    """

    def __init__(self, attributes: int, layout: int, features: int = 128) -> None:
        super().__init__()
        self.encoder = ImageEncoder(3, features, widths=(40, 64, 96, 128), blocks=(2, 1, 1, 1))
        self.quality = nn.Linear(features, 1)
        self.aesthetics = nn.Linear(features, 1)
        self.attributes = nn.Linear(features, attributes)
        self.layout = nn.Linear(features, layout)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.encoder(image)
        hidden = F.relu(features)
        return {
            "features": features,
            "quality": 1 + 4 * torch.sigmoid(self.quality(hidden)[:, 0]),
            "aesthetics": 1 + 4 * torch.sigmoid(self.aesthetics(hidden)[:, 0]),
            "attributes": self.attributes(hidden),
            "layout": self.layout(hidden),
        }


class ClipNet(nn.Module):
    """Clip of 16 frames (B,16,3,64,64) -> features (B,E) for FVD; heads name the temporal degradation.

    Each frame enters with its difference from the frame before, is encoded in 2D, then mixed in time
    ((2+1)D; Tran et al. 2018).
    """

    FRAMES = 16

    def __init__(self, kinds: int, motions: int, features: int = 128, width: int = 64) -> None:
        super().__init__()
        self.frame = ImageEncoder(6, width, widths=(24, 32, 48, 64), blocks=(1, 1, 1, 1))
        self.time = nn.Sequential(
            nn.Conv1d(width, 128, 3, padding=1, bias=False),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Conv1d(128, 128, 3, padding=1, bias=False),
            nn.BatchNorm1d(128),
            nn.ReLU(),
        )
        self.project = nn.Linear(256, features)
        self.kind = nn.Linear(features, kinds)
        self.motion = nn.Linear(features, motions)

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        batch, frames = clip.shape[:2]
        change = torch.cat([torch.zeros_like(clip[:, :1]), clip[:, 1:] - clip[:, :-1]], 1)
        # The pyramid maps [0,1] to zero mean: differences enter magnified and centred at one half.
        pair = torch.cat([clip, 0.5 + 2.0 * change], 2).flatten(0, 1)
        x = self.frame(pair).view(batch, frames, -1).transpose(1, 2)
        x = self.time(x)
        features = self.project(torch.cat([x.mean(-1), x.amax(-1)], -1))
        hidden = F.relu(features)
        return {"features": features, "kind": self.kind(hidden), "motion": self.motion(hidden)}
