"""A phoneme encoder: what a pretrained conformer makes of speech, before it decides which phonemes it heard.

hama 1.7.0 (see NOTICE): 16 kHz -> 80 ln-mel bands at 100 Hz -> a convolution down to 50 Hz -> four conformer blocks of 144
channels. The first `BLOCKS` are kept: what the second gives carries over best between voices and languages. The blocks above make
lips of human voices worse, and so would the CTC head, which names phonemes of two languages. Two things differ from
its own runtime, so that any length and any windows give the same: attention reaches `RADIUS` frames to either side (there it
sees the whole call; with a second it hears human voices worse), and beyond the ends lies silence (there the sound is mirrored).

S samples at 16 kHz, J = S // 320 + 1 frames at 50 Hz, frame j centred at j * 20 ms.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_core.io.checkpoints import load_checkpoint

ASSET = Path(__file__).resolve().parent.parent / "assets" / "phoneme_encoder.safetensors"
CHANNELS, HEADS, HIDDEN, KERNEL, MELS = 144, 4, 576, 31, 80
WINDOW, HOP = 400, 160  # samples
BLOCKS = 2
FLOOR = 1e-10
RADIUS = 200  # frames of attention on either side: 4 s
FRAME_SAMPLES = 320
_BLOCK = 4000  # frames worked on at once
_QUERIES = 200  # of attention, worked on at once


class PhonemeEncoder(nn.Module):
    """The stem and the conformer blocks.

    radius: frames of attention on either side; blocks: how many.
    """

    filters: Tensor

    def __init__(self, radius: int = RADIUS, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.radius = radius
        self.register_buffer("filters", torch.zeros(WINDOW // 2 + 1, MELS))
        self.stem = nn.Conv1d(MELS, CHANNELS, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([ConformerBlock() for _ in range(blocks)])
        self.context = 1 + blocks * (radius + KERNEL // 2)  # frames on either side that can change a frame

    def forward(self, audio: Tensor) -> Tensor:
        """Sound (S,) -> what the last block gives (J,C), in pieces that overlap by what a frame sees."""
        total = len(audio) // FRAME_SAMPLES + 1
        parts = []
        for start in range(0, total, _BLOCK):
            stop = min(start + _BLOCK, total)
            a, b = max(0, start - self.context), min(total, stop + self.context)
            parts.append(self._encode(self._log_mel(audio, a, b, total))[start - a : stop - a])
        return torch.cat(parts)

    def _log_mel(self, audio: Tensor, first: int, end: int, total: int) -> Tensor:
        """ln-mel (K,80) that frames [first, end) read: K = 2 (end - first), less one at the sound's own end."""
        stop = min(2 * end, len(audio) // HOP + 1) if end == total else 2 * end
        left, right = 2 * first * HOP - WINDOW // 2, (stop - 1) * HOP + WINDOW // 2
        piece = F.pad(audio[max(0, left) : right], (max(0, -left), max(0, right - len(audio))))
        window = torch.hann_window(WINDOW, device=audio.device)
        spectrum = torch.fft.rfft(piece.float().unfold(0, WINDOW, HOP) * window)
        power = spectrum.real.square() + spectrum.imag.square()
        return torch.log((power @ self.filters).clamp_min(FLOOR))

    def _encode(self, mel: Tensor) -> Tensor:
        h = F.gelu(self.stem(mel.T[None]))[0].T
        for block in self.blocks:
            h = block(h, self.radius)
        return h


class ConformerBlock(nn.Module):
    """Conformer [Gulati et al. 2020] without positions: half feed-forward, attention, convolution, half feed-forward, norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = FeedForward(), FeedForward()
        self.attention_norm = nn.LayerNorm(CHANNELS)
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.out = nn.Linear(CHANNELS, CHANNELS)
        self.convolution_norm = nn.LayerNorm(CHANNELS)
        self.gate = nn.Linear(CHANNELS, 2 * CHANNELS)
        self.depthwise = nn.Conv1d(CHANNELS, CHANNELS, KERNEL, padding=KERNEL // 2, groups=CHANNELS)
        self.mix = nn.Linear(CHANNELS, CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)

    def forward(self, h: Tensor, radius: int) -> Tensor:
        """(J,C) -> (J,C); attention reaches `radius` frames to either side."""
        h = h + 0.5 * self.first(h)
        q, k, v = self.qkv(self.attention_norm(h)).view(len(h), 3, HEADS, -1).permute(1, 2, 0, 3)
        h = h + self.out(_attend(q, k, v, radius).transpose(0, 1).reshape(len(h), CHANNELS))
        y = F.glu(self.gate(self.convolution_norm(h)), -1)
        h = h + self.mix(F.silu(self.depthwise(y.T[None]))[0].T)
        return self.norm(h + 0.5 * self.second(h))


def _attend(q: Tensor, k: Tensor, v: Tensor, radius: int) -> Tensor:
    """Attention of (heads,J,C) within `radius`, some queries at once: work and memory grow with J, not its square."""
    time = torch.arange(q.shape[1], device=q.device)
    heard = []
    for start in range(0, len(time), _QUERIES):
        some = slice(start, start + _QUERIES)
        near = slice(max(0, start - radius), start + _QUERIES + radius)
        band = (time[some, None] - time[near]).abs() <= radius
        heard.append(F.scaled_dot_product_attention(q[:, some], k[:, near], v[:, near], attn_mask=band))
    return torch.cat(heard, 1)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(CHANNELS)
        self.up, self.down = nn.Linear(CHANNELS, HIDDEN), nn.Linear(HIDDEN, CHANNELS)

    def forward(self, h: Tensor) -> Tensor:
        return self.down(F.silu(self.up(self.norm(h))))


def phoneme_encoder(device: torch.device | str = "cpu") -> PhonemeEncoder:
    """The committed encoder, in eval mode. Raises UserError when the asset is missing or damaged."""
    return _on(str(device))


@lru_cache(maxsize=2)
def _on(device: str) -> PhonemeEncoder:
    tensors, _ = load_checkpoint(ASSET)
    with torch.device("cpu"):
        encoder = PhonemeEncoder()
    encoder.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return encoder.eval().requires_grad_(False).to(device)
